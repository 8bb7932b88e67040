"""Reading single samples, in this process or in others, with one message for whatever goes wrong there."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from cnnaudit.data.pictures import unreadable
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Failed", "Fetch", "cpus", "read"]

_TOGETHER = 16
_IDLE = -1
_ALONE = "write `workers: 0` under `data:` to read images without processes of their own"


@dataclass(frozen=True)
class Failed:
    """A sample that could not be read.

    Attributes:
        index: Which.
        reason: Why, after its name.
        fatal: Whether that is the code's fault, and not the sample's.
    """

    index: int
    reason: str
    fatal: bool


class Fetch(Dataset[Any]):
    """A dataset that hands out what reading it raises, instead of raising it.

    Each sample is read with random numbers of its own: what a dataset makes of it depends neither on the order nor on
    the number of processes.

    Args:
        dataset: What is read.
        seed: Seed of these random numbers.
        collate: What makes a batch of several samples, or None where they stay single.
        prepare: What is done to each sample, or to each batch, where it was read.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        seed: int,
        collate: Callable[[list[Any]], Any] | None = None,
        prepare: Callable[[Any], Any] | None = None,
    ) -> None:
        self._dataset, self._seed, self._collate, self._prepare = dataset, seed, collate, prepare
        self._at: torch.Tensor | None = None

    def watched(self, workers: int) -> torch.Tensor | None:
        """Let every worker leave word of what it reads: its process and the index, int64 of shape (workers, 2)."""
        self._at = None
        if workers:
            self._at = torch.full((workers, 2), _IDLE, dtype=torch.int64)
            self._at.share_memory_()  # type: ignore[no-untyped-call]
        return self._at

    def __getitem__(self, index: int) -> tuple[int, Any]:
        """Return the index and the sample, or what went wrong."""
        worker = get_worker_info()
        if worker is not None and self._at is not None:
            self._at[worker.id] = torch.tensor([os.getpid(), index])
        _draw_anew(self._seed, index)
        try:
            sample = self._dataset[index]
            return index, self._prepare(sample) if self._prepare and self._collate is None else sample
        except LoadError as error:
            return index, Failed(index, str(error).removeprefix(": "), fatal=True)
        except Exception as error:  # noqa: BLE001 - told by name in the process that audits
            reason = unreadable(error)
            return index, Failed(
                index, reason or f"reading it raised {type(error).__name__}: {error}", fatal=not reason
            )

    def joined(self, items: list[tuple[int, Any]]) -> tuple[list[int], list[Any], list[Failed]]:
        """Return the indices of the samples that were read, these samples or one batch of them, and the failures."""
        failures = [sample for _, sample in items if isinstance(sample, Failed)]
        read = [(index, sample) for index, sample in items if not isinstance(sample, Failed)]
        indices, samples = [index for index, _ in read], [sample for _, sample in read]
        if self._collate is None or not samples:
            return indices, samples, failures
        try:
            batch = self._collate(samples)
            return indices, [batch if self._prepare is None else self._prepare(batch)], failures
        except LoadError as error:
            return [], [], [Failed(indices[0], str(error).removeprefix(": "), fatal=True)]
        except Exception as error:  # noqa: BLE001 - see above
            reason = f"the loader's collate_fn raised {type(error).__name__}: {error}"
            return [], [], [Failed(indices[0], reason, fatal=True)]

    def packed(self, items: list[tuple[int, Any]]) -> tuple[list[int], Any, list[Failed]]:
        """Like :meth:`joined`, with tensors of one shape as one: each that goes to another process costs a file."""
        indices, found, failures = self.joined(items)
        if len(found) < 2 or any(held.keys() != found[0].keys() for held in found):
            return indices, found, failures
        return indices, {name: _stacked([held[name] for held in found]) for name in found[0]}, failures


def _stacked(values: list[Any]) -> Any:
    first = values[0]
    alike = all(isinstance(x, torch.Tensor) and (x.shape, x.dtype) == (first.shape, first.dtype) for x in values)
    return torch.stack(values) if alike else values


def _unpacked(found: Any) -> list[Any]:
    if isinstance(found, list):
        return found
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]


def read(
    fetch: Fetch,
    order: Sequence[int],
    workers: int,
    loader: DataLoader[Any] | None,
    name: Callable[[int], str],
) -> Iterator[tuple[list[int], list[Any], list[Failed]]]:
    """Read samples in an order: indices and samples, or one batch of them, and what could not be read.

    Args:
        fetch: What is read.
        order: The indices.
        workers: Number of processes; 0 reads in this one.
        loader: A loader whose batch size and way of starting processes are kept, or None.
        name: What a sample is called in messages.

    Raises:
        LoadError: a process died.
    """
    started: dict[str, Any] = {}
    if workers and loader is not None:
        started = {"worker_init_fn": loader.worker_init_fn, "multiprocessing_context": loader.multiprocessing_context}
    watch = fetch.watched(workers)
    try:
        with _quiet(), _without_handler():
            batches = iter(
                DataLoader(
                    fetch,
                    batch_size=(loader and loader.batch_size) or _TOGETHER,
                    sampler=order,
                    num_workers=workers,
                    collate_fn=fetch.packed if workers else fetch.joined,
                    generator=torch.Generator().manual_seed(0),
                    **started,
                )
            )
    except Exception as error:
        raise LoadError(
            f"{name(order[0])}: no process can be started to read it ({type(error).__name__}: {error}); {_ALONE}"
        ) from error
    while True:
        try:
            indices, found, failures = next(batches)
        except StopIteration:
            return
        except Exception as error:
            raise LoadError(_died(watch, name, error)) from error
        yield indices, _unpacked(found), failures


def _died(watch: torch.Tensor | None, name: Callable[[int], str], error: Exception) -> str:
    """What to say when no sample came back: those that a process was reading when it died."""
    alive = {process.pid for process in multiprocessing.active_children()}
    at = [] if watch is None else [index for pid, index in watch.tolist() if pid not in alive and index != _IDLE]
    if not at:
        return f"a process that reads images raised {type(error).__name__}: {error}; {_ALONE}"
    return (
        f"{' or '.join(map(name, at))}: the process that read it died: memory or shared memory may have run out, or "
        f"the decoder crashed; {_ALONE}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that there are more processes than cores: somebody asked for so many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@contextmanager
def _without_handler() -> Iterator[None]:
    """Without torch's handler that raises wherever the audit is when a process dies; the next batch tells as well."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None:  # None was not set by Python, and cannot be
            signal.signal(signal.SIGCHLD, before)


def _draw_anew(seed: int, index: int) -> None:
    value = int(np.random.SeedSequence((seed, index)).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 - the state that older code draws from
    torch.default_generator.manual_seed(value)


def cpus() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
