"""Which tensors of a checkpoint belong to a model, and the model filled with them."""

from __future__ import annotations

from collections import Counter, defaultdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.parameter import is_lazy

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

__all__ = ["Filled", "fill", "floating_types"]

_COUNTER = "num_batches_tracked"  # counts the batches of training, and nothing reads it in evaluation mode


class Filled(NamedTuple):
    """What a model was filled with.

    Attributes:
        notes: What a report must tell.
        dtype: Floating types that the weights are stored in.
    """

    notes: tuple[str, ...]
    dtype: str


def fill(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str | None, written: str) -> Filled:
    """Copy a checkpoint's tensors into a model.

    They are looked for under every dotted prefix (``state_dict``, ``state_dict.model``, ``module``), and taken where
    the model's weights are complete. What lies elsewhere, such as a loss or an average of the weights, is left out.

    Args:
        model: Is changed in place.
        tensors: By dotted names.
        prefix: Where to look, or the end of that; None for wherever the weights are complete.
        written: How the user knows the checkpoint.

    Raises:
        LoadError: the weights are complete nowhere, or in several places that differ, or the model cannot be filled.
    """
    search = _Search(model, tensors, written)
    chosen = search.only() if prefix is None else search.named(prefix.strip("."))
    return search.filled(model, chosen)


def floating_types(tensors: Iterable[Tensor]) -> str:
    """``float32``, or several types in alphabetic order, or nothing where no tensor is of a floating type."""
    return ", ".join(sorted({_type(tensor) for tensor in tensors if tensor.is_floating_point()}))


class _Fit(NamedTuple):
    """How the tensors under one prefix fit a model."""

    prefix: str
    missing: list[str]
    shapes: list[str]
    kinds: list[str]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.shapes or self.kinds)


class _Search:
    """A model's weights, looked for in a checkpoint."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor], written: str) -> None:
        self._tensors, self._written = tensors, written
        self._wanted = {key: value for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
        if not self._wanted:
            raise LoadError(f"weights {written}: the model has no weights to fill; leave weights: out")
        if any(value.is_meta for value in self._wanted.values()):
            raise LoadError(
                f"weights {written}: the model was built on the meta device, without memory for weights; "
                "build it on cpu"
            )
        self._shared = _shared(self._wanted)
        votes: Counter[str] = Counter()
        for key in tensors:
            votes.update(prefix for prefix in _prefixes(key) if _inner(key, prefix) in self._wanted)
        # The likeliest comes first: where most is found, and of equals the outermost.
        likely = sorted(votes or [""], key=lambda prefix: (-votes[prefix], len(prefix)))
        self._fits = {prefix: self._fit(prefix) for prefix in likely}
        self._complete = [prefix for prefix, fit in self._fits.items() if fit.complete]

    def only(self) -> str:
        """The one place where the weights are complete, or else the likeliest."""
        if not self._complete:
            return next(iter(self._fits))
        first, *others = sorted(self._complete, key=len)
        # A loss that holds the network puts the same tensors into the checkpoint twice.
        if all(self._equal(first, other) for other in others):
            return first
        places = ", ".join(prefix or "the top level" for prefix in self._complete)
        raise LoadError(
            f"weights {self._written}: the model's weights are complete in {len(self._complete)} places that differ: "
            f"{places}. Say which one is meant: weights: {{load: {self._written}, prefix: {others[-1]}}}"
        )

    def named(self, prefix: str) -> str:
        """The place that a user named in full or by its end."""
        known = {place for key in self._tensors for place in _prefixes(key)}
        if prefix in known:
            return prefix
        ending = sorted(place for place in known if place.endswith(f".{prefix}"))
        ending = [place for place in ending if place in self._complete] or ending
        if len(ending) > 1:
            raise LoadError(
                f"weights {self._written}: prefix {prefix!r} may mean {', '.join(ending)}: write it in full"
            )
        if not ending:
            ends = sorted({place.rpartition(".")[2] for place in known} - {""})
            near = get_close_matches(prefix, [*ends, *known], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(ends[:6]) or 'none'}"
            raise LoadError(f"weights {self._written}: no tensor lies under the prefix {prefix!r}{hint}")
        return ending[0]

    def filled(self, model: nn.Module, prefix: str) -> Filled:
        """Fill the model from one place."""
        fit = self._fits.get(prefix) or self._fit(prefix)
        others = [place for place in self._complete if place != prefix and _below(place, prefix)]
        elsewhere = [
            key for key in self._tensors if not _below(key, prefix) or any(_below(key, place) for place in others)
        ]
        outside = set(elsewhere)
        inside = {_inner(key, prefix): key for key in self._tensors if key not in outside}
        unexpected = [name for name in inside if name not in self._wanted and not _counts(name)]
        self._check(fit, unexpected)
        state = {name: self._tensors[key] for name, key in inside.items() if name in self._wanted}
        try:
            model.load_state_dict(state, strict=False)
        except Exception as error:
            raise LoadError(
                f"weights {self._written}: the model does not take them ({error}); name those that were saved from it"
            ) from error
        stored, run = (floating_types(held[name] for name in state) for held in (state, self._wanted))
        notes = [
            self._left_out(prefix, elsewhere),
            f"have no {_COUNTER}, which evaluation does not read" if self._lacks_counters(state) else "",
            f"are stored as {stored} and run as {run}" if stored != run else "",
        ]
        return Filled(tuple(f"The weights {self._written} {note}." for note in notes if note), stored)

    def _fit(self, prefix: str) -> _Fit:
        fit = _Fit(prefix, [], [], [])
        for name, wanted in self._wanted.items():
            found = self._tensors.get(_joined(prefix, name))
            if found is None:
                shared = any(_joined(prefix, other) in self._tensors for other in self._shared[name])
                if not shared and not _counts(name):
                    fit.missing.append(name)
            elif found.layout is not torch.strided or found.is_quantized or found.is_meta:
                fit.kinds.append(f"{name}: quantised, sparse or without content in the file")
            elif wanted.is_floating_point() != found.is_floating_point():
                fit.kinds.append(f"{name}: {_type(found)} in the file, {_type(wanted)} in the model")
            elif not is_lazy(wanted) and found.shape != wanted.shape:
                fit.shapes.append(f"{name}: {tuple(found.shape)} in the file, {tuple(wanted.shape)} in the model")
        return fit

    def _check(self, fit: _Fit, unexpected: list[str]) -> None:
        wrong = [
            ("missing", fit.missing),
            ("unexpected", unexpected),
            ("of another shape", fit.shapes),
            ("of another kind", fit.kinds),
        ]
        told = [
            f"{len(names)} {what} ({'; '.join(names[:3])}{'; ...' if len(names) > 3 else ''})"
            for what, names in wrong
            if names
        ]
        if told:
            where = f" under {fit.prefix}" if fit.prefix else ""
            hint = self._hint(fit, unexpected)
            raise LoadError(
                f"weights {self._written}{where} do not fit the model; name those that were saved from it: "
                f"{', '.join(told)}{hint}"
            )

    def _hint(self, fit: _Fit, unexpected: list[str]) -> str:
        count = sum(not _counts(name) for name in self._wanted)
        fitting = count - len(fit.missing) - len(fit.shapes) - len(fit.kinds)
        if fitting < count / 2:
            known = f"Only {fitting}" if fitting else "None"
            return f". {known} of the model's {count} weights are there: the file seems to be of another architecture"
        if fit.missing or unexpected or fit.kinds:
            return ""
        heads = {self._widths(fit.prefix, line.partition(":")[0]) for line in fit.shapes}
        found, wanted = heads.pop()
        if heads or found == wanted:
            return ""
        return (
            f". Only a last layer differs: it has {found} outputs in the file and {wanted} in the model; build the "
            f"model with as many, for most factories by kwargs: {{num_classes: {found}}}"
        )

    def _widths(self, prefix: str, name: str) -> tuple[int, int]:
        """Outputs of a layer in the file and in the model, equal where more than that differs."""
        found, wanted = self._tensors[_joined(prefix, name)].shape, self._wanted[name].shape
        alike = found and wanted and found[1:] == wanted[1:]
        return (found[0], wanted[0]) if alike else (0, 0)

    def _equal(self, one: str, other: str) -> bool:
        pairs = ((self._tensors.get(_joined(one, n)), self._tensors.get(_joined(other, n))) for n in self._wanted)
        return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)

    def _left_out(self, prefix: str, keys: list[str]) -> str:
        chosen = prefix.split(".") if prefix else []
        groups: Counter[str] = Counter()
        for key in keys:
            if not (self._tensors[key].dim() and self._tensors[key].is_floating_point()):
                continue  # scores, counters and states of random generators, which nobody takes for weights
            parts = key.split(".")
            same = next((i for i, (a, b) in enumerate(zip(parts, chosen, strict=False)) if a != b), len(chosen))
            groups[".".join(parts[: same + 1])] += 1
        if not groups:
            return ""
        told = ", ".join(f"{group} ({count})" for group, count in list(groups.items())[:3])
        more = f" and {len(groups) - 3} more" if len(groups) > 3 else ""
        return f"were taken from {prefix or 'the top level'}; tensors elsewhere were left out: {told}{more}"

    def _lacks_counters(self, state: Mapping[str, Tensor]) -> bool:
        return any(_counts(name) and name not in state for name in self._wanted)


def _shared(wanted: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """For every weight the others that are the same memory: files need not hold it more than once."""
    groups: dict[object, list[str]] = defaultdict(list)
    for name, value in wanted.items():
        own = is_lazy(value) or not value.numel()
        groups[name if own else (value.data_ptr(), value.shape, value.stride())].append(name)
    return {name: [other for other in group if other != name] for group in groups.values() for name in group}


def _prefixes(key: str) -> list[str]:
    """Every place that a tensor lies under: ``a.b.weight`` under the top level, ``a`` and ``a.b``."""
    parts = key.split(".")
    return [".".join(parts[:i]) for i in range(len(parts))]


def _below(key: str, prefix: str) -> bool:
    return not prefix or key.startswith(f"{prefix}.")


def _inner(key: str, prefix: str) -> str:
    return key[len(prefix) + 1 :] if prefix else key


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _counts(name: str) -> bool:
    return name.rpartition(".")[2] == _COUNTER


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
