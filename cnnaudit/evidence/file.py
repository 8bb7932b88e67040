"""One safetensors file: tensors, and a JSON text with a digest of all of it. What is read is trusted in nothing."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cnnaudit.errors import EvidenceError
from cnnaudit.evidence.content import SCHEMA_VERSION, Content, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    State = Mapping[str, Tensor]

__all__ = ["Stored", "read", "write"]

_NAME = "cnnaudit"
_START = b'{"sha256":"'
_MOST_HEADER = 96 * 2**20  # bytes; what safetensors itself reads
_MOST_VALUES = 4_000_000  # of the text: each takes far more memory than its letters
_MOST_TENSORS = 500_000
_STATE = re.compile(r"(calibration|tally)\.\w+")
_DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool}
)


@dataclass(frozen=True)
class Stored:
    """What an evidence file holds.

    Attributes:
        path: The file, as it was named.
        sha256: Of its bytes.
        content: What it says.
        states: For each look, by its number, the states of the statistics by theirs.
    """

    path: str
    sha256: str
    content: Content
    states: Mapping[int, Mapping[int, State]]


def write(path: Path, content: Mapping[str, object], states: Mapping[int, Mapping[int, State]]) -> None:
    """Write a file; the same content gives the same bytes.

    Raises:
        EvidenceError: it cannot be written, or would be too large to be read again.
    """
    tensors = {
        f"{look}/{number}/{name}": tensor
        for look, statistics in states.items()
        for number, state in statistics.items()
        for name, tensor in state.items()
    }
    body = canonical(content).encode()
    if _values(body) > _MOST_VALUES or len(body) > _MOST_HEADER // 2 or len(tensors) > _MOST_TENSORS:
        raise EvidenceError(
            f"{path}: the evidence would be too large ({len(tensors):,} tensors, {len(body):,} bytes of text): "
            "narrow `at:`, or leave out rules"
        )
    text = _START + _digest(body, tensors).encode() + b'",' + body[1:]
    try:
        # Under its name there is a whole file or none; until then it has a folder that nobody else can write to.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            partial = Path(folder) / path.name
            save_file(tensors, partial, metadata={_NAME: text.decode()})
            partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise EvidenceError(f"{path}: the evidence cannot be written: {error}; give another path") from error


def read(path: str | Path) -> Stored:
    """Read a file and verify its digest.

    Raises:
        EvidenceError: it is no evidence, or was damaged or edited.
    """
    name = str(path)
    try:
        sha256 = _checked(Path(path), name)
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(_NAME, "").encode()
            names = list(file.keys())
            _refuse_strange(name, text, len(names))
            tensors = {key: file.get_tensor(key) for key in names}
    except OSError as error:
        raise EvidenceError(f"{name} cannot be read: {error.strerror or error}; name an evidence file") from error
    except (SafetensorError, ValueError, RuntimeError, OverflowError) as error:
        raise EvidenceError(
            f"{name}: this is no evidence file, or is damaged ({_first_line(error)}): copy it again, or audit again"
        ) from error
    end = len(_START) + 64
    body = b"{" + text[end + 2 :]
    if text[len(_START) : end] != _digest(body, tensors).encode() or text[end : end + 2] != b'",':
        raise EvidenceError(
            f"{name}: the evidence was damaged or edited since it was written: its digest differs; copy it again, or "
            "audit again"
        )
    content = Content.read(body, name)
    if content.schema_version != SCHEMA_VERSION:
        raise EvidenceError(
            f"{name}: evidence of schema_version {content.schema_version}, and this cnnaudit reads {SCHEMA_VERSION}: "
            "judge it with the version that wrote it, or audit again"
        )
    return Stored(name, sha256, content, _sorted(name, content, tensors))


def _checked(path: Path, name: str) -> str:
    """The digest of a file whose header may be read."""
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise EvidenceError(f"{name} is no file: name an evidence file")
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if size < 10 or header > min(size - 8, _MOST_HEADER):
            raise EvidenceError(f"{name}: this is no evidence file, or only a part of one: copy it again")
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_strange(name: str, text: bytes, tensors: int) -> None:
    if not text.startswith(_START):
        raise EvidenceError(
            f"{name}: this is a safetensors file, but no evidence; name one that `cnnaudit check --evidence` wrote"
        )
    if _values(text) > _MOST_VALUES or tensors > _MOST_TENSORS:
        raise EvidenceError(f"{name}: the evidence says more than any audit does: audit again")


def _values(text: bytes) -> int:
    """At least as many values as a JSON text holds."""
    return 1 + text.count(b",") + text.count(b"[") + text.count(b"{")


def _digest(body: bytes, tensors: State) -> str:
    digest = hashlib.sha256(body)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sorted(name: str, content: Content, tensors: State) -> dict[int, dict[int, State]]:
    """States by look and statistic."""
    states: dict[int, dict[int, dict[str, Tensor]]] = {known.look.number: defaultdict(dict) for known in content.known}
    for key, tensor in tensors.items():
        look, _, rest = key.partition("/")
        number, _, part = rest.partition("/")
        known = look.isdecimal() and number.isdecimal() and int(look) in states and int(number) < len(content.probes)
        if not known or not _STATE.fullmatch(part) or tensor.dtype not in _DTYPES:
            raise EvidenceError(f"{name}: the evidence holds {key[:80]!r}, which is no part of one: audit again")
        states[int(look)][int(number)][part] = tensor
    return {look: dict(held) for look, held in states.items()}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
