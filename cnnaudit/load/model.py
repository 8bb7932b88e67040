"""Models and their weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cnnaudit.load.trust import Trust
    from cnnaudit.spec.source import Source

__all__ = ["load_model"]


def load_model(source: Source, weights: Source | None, trust: Trust) -> nn.Module:
    """Build a model and fill in its weights.

    Args:
        source: Where the model comes from.
        weights: Where its weights come from, or None for those that it is built with.
        trust: What may be imported.

    Raises:
        LoadError: the model or the weights cannot be opened, may not be, or do not fit each other.
    """
    model = _build(source, trust)
    if weights is not None:
        _fill(model, _state(weights), weights.written)
    return model


# Arguments of the zoos' factories that open files or addresses.
_OPENING = {"cache_dir", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}


def _build(source: Source, trust: Trust) -> nn.Module:
    options = dict(source.options)
    if source.kind in ("torchvision", "timm") and (opening := sorted(_OPENING & set(options))):
        raise LoadError(f"{source.written}: {', '.join(opening)} would open files; name the weights under `weights:`")
    if source.kind == "timm" and source.target.startswith("local-dir:"):
        raise LoadError(f"{source.written}: folders of models are not read; name the architecture and `weights:`")
    if source.kind in ("file_factory", "module_factory"):
        model = _called(trust.factory(source), options, source.written)
    elif source.kind == "torchvision":
        models = _package("torchvision", "vision").models
        if source.target not in models.list_models():
            raise LoadError(f"{source.written}: torchvision has no model of this name")
        model = _called(models.get_model, {"name": source.target, **options}, source.written)
    elif source.kind == "timm":
        model = _called(_package("timm", "timm").create_model, {"model_name": source.target, **options}, source.written)
    else:
        raise LoadError(
            f"{source.written}: exported programs are not read yet; name the factory that builds the model instead"
        )
    if not isinstance(model, nn.Module):
        raise LoadError(f"{source.written} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _called(factory: Any, options: Mapping[str, Any], written: str) -> Any:
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise LoadError(f"{written} is a {type(factory).__name__}, not a function that builds a model")
    try:
        return factory(**options)
    except Exception as error:
        raise LoadError(f"{written}: building it raised {type(error).__name__}: {error}") from error


def _package(name: str, extra: str) -> Any:
    import importlib  # noqa: PLC0415 - these packages take seconds to import and most audits need neither

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise LoadError(f"{name} is not installed: pip install 'cnnaudit[{extra}]'") from error


def _state(source: Source) -> dict[str, Tensor]:
    path = Path(source.target)
    if not path.is_file():
        raise LoadError(f"weights: there is no file {path}")
    if source.kind == "safetensors":
        try:
            return load_file(path)
        except (SafetensorError, ValueError) as error:
            raise LoadError(f"weights {source.written}: not a readable safetensors file ({error})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: the file loads or it does not
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise LoadError(
            f"weights {source.written}: not a state dict that loads without running code "
            f"({reason}); save it with torch.save(model.state_dict(), ...) or as safetensors"
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        held = f" with the keys {', '.join(map(str, loaded))[:200]}" if isinstance(loaded, dict) else ""
        raise LoadError(
            f"weights {source.written}: a {type(loaded).__name__}{held}, not a state dict of tensors; save the part "
            "that is one with torch.save(model.state_dict(), ...)"
        )
    return loaded


def _fill(model: nn.Module, state: dict[str, Tensor], written: str) -> None:
    wanted = model.state_dict()
    # Wrappers such as DataParallel and Lightning modules put their attribute's name before every key.
    inner = {key.partition(".")[2]: tensor for key, tensor in state.items()}
    if len({key.partition(".")[0] for key in state}) == 1 and set(inner) & set(wanted) and not set(state) & set(wanted):
        state = inner
    missing = [k for k in wanted if k not in state]
    unexpected = [k for k in state if k not in wanted]
    shapes = [
        f"{k}: {tuple(state[k].shape)} in the file, {tuple(wanted[k].shape)} in the model"
        for k in wanted
        if k in state and state[k].shape != wanted[k].shape
    ]
    found = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    told = [
        f"{len(keys)} {what} ({'; '.join(keys[:3])}{'; ...' if len(keys) > 3 else ''})" for what, keys in found if keys
    ]
    if told:
        raise LoadError(f"weights {written} do not fit the model: {', '.join(told)}")
    model.load_state_dict(state)
