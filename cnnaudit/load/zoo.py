"""Networks by name from torchvision and timm; no code that a name leads to lies outside these packages."""

from __future__ import annotations

import importlib
import inspect
import warnings
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from cnnaudit.spec.source import Source

__all__ = ["from_timm", "from_torchvision", "package"]

# Arguments of the factories that open files or addresses.
_OPENING = {"cache_dir", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "progress"}
_NAMES = {"model_name", "name"}  # would build another network, from any folder too, than the one that was checked


def from_torchvision(source: Source) -> nn.Module:
    """Build a network of torchvision's, with random weights unless its options name others.

    Raises:
        LoadError: torchvision is not installed, has no such network, or cannot build it with these options.
    """
    models = package("torchvision", "vision").models
    options = _options(source)
    if source.target not in models.list_models():
        raise LoadError(_unknown(source, "torchvision", models.list_models()))
    builder = models.get_model_builder(source.target)
    # Detectors and segmentation networks would download the weights of their backbone unasked.
    if "weights_backbone" in inspect.signature(builder).parameters:
        options.setdefault("weights_backbone", None)
    try:
        return _built(models.get_model, source, {"name": source.target, **options})
    except OSError as error:
        raise LoadError(_unfetched(source, error)) from error


def from_timm(source: Source, *, filled: bool) -> nn.Module:
    """Build a network of timm's.

    ``hf-hub:org/name`` is read from the local cache of Hugging Face only, with the weights in it; its configuration
    names one of timm's architectures, and code in the repository is never run. Pretrained weights of a tag
    (``resnet50.a1_in1k`` with ``pretrained: true``) are taken from the cache, and fetched where they are not there.

    Args:
        source: The name and options.
        filled: Whether the network will be filled with other weights, so that those of a repository are not needed.

    Raises:
        LoadError: timm is not installed, has no such network, cannot build it with these options, or what it needs is
            not in the cache.
    """
    timm = package("timm", "timm")
    options = _options(source)
    origin, _, repository = source.target.rpartition(":")
    hub = origin.lower().replace("_", "-") == "hf-hub"
    if origin and not hub:
        raise LoadError(
            f"{source.written}: only networks of timm's own and hf-hub: are read; name the architecture and `weights:`"
        )
    known = timm.list_models()
    if not hub and source.target not in known and source.target not in timm.list_models(pretrained=True):
        raise LoadError(_unknown(source, "timm", [*known, *timm.list_models(pretrained=True)]))
    if hub:
        options.setdefault("pretrained", not filled)
    arguments = {"model_name": source.target, **options}
    try:
        with _offline():
            return _built(timm.create_model, source, arguments)
    except OSError as error:
        if hub:
            raise LoadError(
                f"{source.written}: it is not in the local cache of Hugging Face, and audits fetch no repositories; "
                f"fetch it first: hf download {repository.replace('@', ' --revision ')}"
            ) from error
    try:
        return _built(timm.create_model, source, arguments)
    except OSError as error:
        raise LoadError(_unfetched(source, error)) from error


def _options(source: Source) -> dict[str, Any]:
    if naming := sorted(_NAMES & set(source.options)):
        raise LoadError(f"{source.written}: {naming[0]} is no option; write the network's name after the colon")
    if opening := sorted(_OPENING & set(source.options)):
        raise LoadError(f"{source.written}: {', '.join(opening)} would open files; name the weights under `weights:`")
    return dict(source.options)


def _unknown(source: Source, package: str, names: list[str]) -> str:
    near = get_close_matches(source.target, names, n=3)
    listing = "timm.list_models()" if package == "timm" else "torchvision.models.list_models()"
    if package == "timm" and "/" in source.target:
        near = [f"timm:hf-hub:{source.target}"]
    hint = f"did you mean {' or '.join(near)}?" if near else f"list them with {listing}"
    return f"{source.written}: {package} has no model of this name; {hint}"


def _unfetched(source: Source, error: OSError) -> str:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return (
        f"{source.written}: its pretrained weights are not in the local cache and cannot be fetched ({reason}); fetch "
        "them where there is a network, or name a file under `weights:`"
    )


def _built(factory: Any, source: Source, arguments: Mapping[str, Any]) -> nn.Module:
    """Call a factory; files that it cannot find or fetch are left to the caller, everything else is told."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of defaults that will change one day
            model: nn.Module = factory(**arguments)
    except OSError:
        raise
    except Exception as error:
        raise LoadError(
            f"{source.written}: building it raised {type(error).__name__}: {error}; correct its options"
        ) from error
    return model


@contextmanager
def _offline() -> Iterator[None]:
    """Let Hugging Face's library look into its cache only: without a network it would wait for half a minute."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def package(name: str, extra: str) -> Any:
    """Import a package that only some audits need.

    Raises:
        LoadError: it is not installed; the message names the extra that installs it.
    """
    try:
        return importlib.import_module(name)  # takes seconds, and most audits need neither
    except ModuleNotFoundError as error:
        raise LoadError(f"{name} is not installed: pip install 'cnnaudit[{extra}]'") from error
