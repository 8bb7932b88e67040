"""Tensors from files of weights, read without running anything that the files hold."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cnnaudit.errors import LoadError
from cnnaudit.load.pickles import inspected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cnnaudit.load.trust import Trust
    from cnnaudit.spec.source import Source

__all__ = ["read_weights"]

_DEEPEST = 4  # levels of mappings in a checkpoint
_LONGEST_KEY = 300
_LARGEST_INDEX = 2**26


def read_weights(source: Source, trust: Trust) -> dict[str, Tensor]:
    """Return every tensor of a file of weights by its dotted name: ``state_dict.model.conv1.weight``.

    Checkpoints are mappings in mappings; what is no tensor, and what lies under keys that are no printable text of
    ordinary length, is passed over.

    Args:
        source: A safetensors file, the index of a sharded one, or what ``torch.save`` wrote.
        trust: What may be opened.

    Raises:
        LoadError: the file may not be opened, cannot be read without running code, or holds no tensors.
    """
    written = f"weights {source.written}"
    path = trust.opened(Path(source.target), written)
    if path.is_dir():
        raise LoadError(f"{written}: a folder; name the file in it")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise LoadError(
            f"{written}: {path} cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    if not start:
        raise LoadError(f"{written}: the file is empty; save the weights again")
    if start.startswith(b"version https://git-lfs"):
        raise LoadError(f"{written}: only the pointer to a file in Git LFS; fetch the file itself with git lfs pull")
    if source.kind == "safetensors":
        sharded = source.target.endswith(".index.json")
        found: Any = _sharded(source, trust, written) if sharded else _safetensors(path, written)
    else:
        found = _pickled(path, start, written)
    tensors = _flat(found)
    if not tensors:
        keys = [repr(key) for key in found if isinstance(key, str)] if isinstance(found, dict) else []
        held = f" with the keys {', '.join(keys)[:200]}" if keys else ""
        raise LoadError(
            f"{written}: a {type(found).__name__}{held}, not a state dict of tensors; save the part that is one with "
            "torch.save(model.state_dict(), ...)"
        )
    return tensors


def _safetensors(path: Path, written: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise LoadError(f"{written}: not a readable safetensors file ({error}); copy or save it again") from error


def _sharded(source: Source, trust: Trust, written: str) -> dict[str, Tensor]:
    index = trust.opened(Path(source.target), written)
    malformed = f"{written}: an index of safetensors files must hold weight_map, a mapping of tensors to files"
    if index.stat().st_size > _LARGEST_INDEX:
        raise LoadError(malformed)
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(named.values()))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise LoadError(malformed) from error
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if not isinstance(shard, str) or not re.fullmatch(r"[\w.-]*\w", shard):
            raise LoadError(f"{written}: {shard!r} is no file name; the index must name files of its own folder")
        path = trust.opened(Path(source.target).parent / shard, f"{written}: its part {shard}")
        tensors |= _safetensors(path, f"{written}: its part {shard}")
    if absent := [key for key in named if key not in tensors]:
        raise LoadError(
            f"{written}: {len(absent)} of its tensors are in none of its files ({'; '.join(absent[:3])}); "
            "copy all of them again"
        )
    return {key: tensors[key] for key in named}


def _pickled(path: Path, start: bytes, written: str) -> Any:
    left = inspected(path, start, written)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(left):
            warnings.simplefilter("ignore")  # of pickle protocols: the file loads or it does not
            return torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(b"PK"))
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise LoadError(
            f"{written}: not a state dict that torch can read without running code ({reason}); save it with "
            "torch.save(model.state_dict(), ...) or as safetensors"
        ) from error


def _flat(found: Any) -> dict[str, Tensor]:
    """Tensors by dotted names. A mapping is visited once: in a hostile file it can hold itself, or others manifold."""
    tensors: dict[str, Tensor] = {}
    met: set[int] = set()
    waiting: list[tuple[str, Mapping[Any, Any], int]] = [("", found, 1)] if isinstance(found, dict) else []
    while waiting:
        prefix, mapping, depth = waiting.pop(0)
        met.add(id(mapping))
        for key, value in mapping.items():
            if not (isinstance(key, str) and len(key) <= _LONGEST_KEY and key.isprintable()):
                continue
            if isinstance(value, torch.Tensor):
                tensors.setdefault(prefix + key, torch.Tensor.detach(value))
            elif isinstance(value, dict) and depth < _DEEPEST and id(value) not in met:
                waiting.append((f"{prefix}{key}.", value, depth + 1))
    return tensors
