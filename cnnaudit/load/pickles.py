"""What a file that ``torch.save`` wrote would call, read from it before torch opens it.

torch's ``weights_only`` never runs what a file names, but some of what it lets pass takes much memory for a few bytes
of the file (``bytearray``, ``torch.Tensor``), and it refuses checkpoints for hyper-parameters that no audit needs.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["inspected"]

# What tensors and plain containers are made with.
_TENSORS = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|complex)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter"
    r"|torch\.(Size|device|bool|b?complex\d+|b?float\d+\w*|u?int\d+|q\w*int\w+|bits\w+|per_\w+)"
    r"|torch\.(cuda\.|storage\.)?\w+Storage|torch\.serialization\._get_layout"
)
# Hyper-parameters that checkpoints are full of. None is restored: something inert stands in for each.
_LEFT = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|datetime\.\w+|decimal\.Decimal|uuid\.UUID|typing\.Any"
    r"|pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path"
    r"|builtins\.(int|float|str|bool|list|dict|tuple|bytes|object|frozenset|slice|range)"
    r"|numpy\._?core\.(multiarray|numeric)\.(scalar|_reconstruct|_frombuffer)"
    r"|numpy\.(dtype|ndarray|bool_?|u?int\d+|float\d+|str_|dtypes\.\w+)"
    r"|omegaconf\.(dictconfig\.DictConfig|listconfig\.ListConfig|base\.(Container)?Metadata|nodes\.\w+Node)"
)
# Mappings that are made empty and filled afterwards.
_MAPPINGS = re.compile(
    r"collections\.defaultdict|yacs\.config\.CfgNode|easydict\.EasyDict"
    r"|(pytorch_)?lightning(_fabric)?\.(\w+\.)+AttributeDict"
)
_PROGRAMS = ("torch.nn.modules.", "torch.fx.", "torch.ao.", "torch.jit.")
_LEGACY = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # in the first bytes of what torch wrote before archives
_LEGACY_PICKLES = 5
# Encodings of bytes as bytes: what they return can be encoded again and again, and grows each time.
_SWELLING = {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "uu_codec", "zlib_codec"}
_WAY_OUT = "If you trust it, load it elsewhere and save model.state_dict() with torch.save or as safetensors"


class _Left:
    """Stands where a hyper-parameter stood: takes what that was made from, and does nothing with it."""

    def __new__(cls, *_: Any) -> Self:
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        """Forget the state."""


class _Mapping:
    """Stands where a subclass of dict stood: what is made is a plain mapping."""

    def __new__(cls, *_: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def inspected(path: Path, start: bytes, written: str) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Refuse a file that torch must not open; nothing is unpickled and nothing is inflated.

    Args:
        path: The file.
        start: Its first 64 bytes.
        written: How the user knows it, for messages.

    Returns:
        What stands in for the hyper-parameters that the file names, as ``torch.serialization.safe_globals`` takes it.

    Raises:
        LoadError: it is something else than weights, would call more than what builds tensors, or is broken.
    """
    try:
        if start.startswith(b"PK\x03\x04"):
            names, texts = _called(io.BytesIO(_record(path, written)), 1)
        elif _LEGACY in start:
            with path.open("rb") as file:
                names, texts = _called(file, _LEGACY_PICKLES)
        else:
            raise LoadError(f"{written}: not a state dict: torch.save did not write this file. {_WAY_OUT}")
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, ValueError) as error:
        raise LoadError(
            f"{written}: not a state dict that can be read, or only the beginning of one ({error}). Fetch or save it "
            "again"
        ) from error
    known = {name: _stand_in(name) for name in names}
    strange = sorted(name for name in names if known[name] is None and not _TENSORS.fullmatch(name))
    if strange:
        model = any(name.startswith(_PROGRAMS) for name in strange)
        what = "a pickled model, not a state dict" if model else "not a state dict"
        told = ", ".join(name.encode("unicode_escape").decode()[:80] for name in strange[:3])
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise LoadError(f"{written}: {what} that loads without running code (it calls {told}{more}). {_WAY_OUT}")
    if "_codecs.encode" in names and _SWELLING & {_codec(text) for text in texts}:
        raise LoadError(f"{written}: not a state dict: it holds bytes that unpack to more. {_WAY_OUT}")
    return [(stand_in, name) for name, stand_in in known.items() if stand_in is not None]


def _stand_in(name: str) -> Callable[..., Any] | None:
    if _LEFT.fullmatch(name):
        return _Left
    return _Mapping if _MAPPINGS.fullmatch(name) else None


def _record(path: Path, written: str) -> bytes:
    """The pickle in an archive of torch's, which stores and never compresses."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
            raise LoadError(
                f"{written}: a TorchScript archive, which is a program and not weights. {_WAY_OUT} (torch.jit.load)"
            )
        if any(name.endswith("/archive_format") for name in names):
            raise LoadError(f"{written}: an exported program, not weights: name it under model:, with the suffix .pt2")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise LoadError(
                f"{written}: not a state dict: this archive is compressed, and torch.save compresses nothing; "
                "save it with that"
            )
        claimed, held = sum(member.file_size for member in members), path.stat().st_size
        if claimed > held:
            raise LoadError(f"{written}: its archive claims to hold {claimed} bytes, and the file has {held}")
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(set(names)) < len(names):
            raise LoadError(f"{written}: not a state dict: torch.save did not write this archive. {_WAY_OUT}")
        return archive.read(pickles[0])


def _called(file: BinaryIO, pickles: int) -> tuple[set[str], set[str]]:
    """Dotted names of what so many pickles would call, and their short texts; nothing is called."""
    names, texts = set(), set()
    for _ in range(pickles):
        for operation, argument, _ in pickletools.genops(file):
            if operation.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                renamed = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
                names.add(".".join(renamed))
            elif isinstance(argument, str) and len(argument) < 32:
                texts.add(argument)
    return names, texts


def _codec(text: str) -> str:
    name = normalize_encoding(text).lower()
    return aliases.get(name, name)
