"""Models with their weights."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import ExportedProgram

from cnnaudit.errors import LoadError
from cnnaudit.load.exported import check_evaluates, load_exported
from cnnaudit.load.fitting import Filled, fill, floating_types
from cnnaudit.load.weights import read_weights
from cnnaudit.load.zoo import from_timm, from_torchvision

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.load.trust import Trust
    from cnnaudit.spec.source import Source

__all__ = ["Loaded", "load_model", "unwrapped"]


@dataclass(frozen=True)
class Loaded:
    """A model and how it came about.

    Attributes:
        model: The network; of an exported program its ``module()``.
        program: The exported program, None where code built the model.
        notes: Sentences that the report must tell, of weights that were left out or are run in another type.
        weights_dtype: Floating types that the weights are stored in, such as ``float32``.
    """

    model: nn.Module
    program: ExportedProgram | None = None
    notes: tuple[str, ...] = ()
    weights_dtype: str = ""


def load_model(source: Source, weights: Source | None, trust: Trust) -> Loaded:
    """Build a model and fill in its weights.

    Args:
        source: Where the model comes from.
        weights: Where its weights come from, or None for those that it is built with.
        trust: What may be imported and opened.

    Raises:
        LoadError: the model or the weights cannot be opened, may not be, or do not fit each other.
    """
    built = load_exported(source, trust) if source.kind == "exported" else _built(source, weights, trust)
    if isinstance(built, ExportedProgram):
        return _program(built, source, weights)
    model = unwrapped(built)
    if isinstance(model, torch.jit.ScriptModule):
        raise LoadError(
            f"{source.written}: TorchScript programs are not read; build the torch.nn.Module itself, or export that "
            "with torch.export"
        )
    if not isinstance(model, nn.Module):
        raise LoadError(f"{source.written} returned a {type(model).__name__}, not a torch.nn.Module")
    part = _part(model, source)
    if weights is None:
        return Loaded(part, weights_dtype=floating_types(_own(part)))
    filled = _filled(model, part, read_weights(weights, trust), weights, source.part)
    return Loaded(part, notes=filled.notes, weights_dtype=filled.dtype)


def unwrapped(model: Any) -> Any:
    """The network inside what compiles or spreads it: the same parameters, and names without a prefix."""
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(model, "_orig_mod"):
        model = model.module if hasattr(model, "module") else model._orig_mod  # noqa: SLF001 - torch.compile's name
    return model


def _built(source: Source, weights: Source | None, trust: Trust) -> Any:
    if source.kind == "torchvision":
        return from_torchvision(source)
    if source.kind == "timm":
        return from_timm(source, filled=weights is not None)
    factory = trust.factory(source)
    if isinstance(factory, (nn.Module, ExportedProgram)):
        return factory
    if not callable(factory):
        raise LoadError(f"{source.written} is a {type(factory).__name__}, not a function that builds a model")
    try:
        return factory(**source.options)
    except (Exception, SystemExit) as error:
        raise LoadError(
            f"{source.written}: building it raised {type(error).__name__}: {error}; call it by itself to see where"
        ) from error


def _program(program: ExportedProgram, source: Source, weights: Source | None) -> Loaded:
    if weights is not None:
        raise LoadError(f"{source.written} is an exported program, which holds its own weights: leave out `weights:`")
    if source.part:
        raise LoadError(f"{source.written} is an exported program, whose parts cannot be called: leave out `part:`")
    check_evaluates(program, source.written)
    module = program.module()
    return Loaded(module, program, weights_dtype=floating_types(_own(module)))


def _part(model: nn.Module, source: Source) -> nn.Module:
    try:
        return model.get_submodule(source.part)
    except AttributeError:
        names = [name for name, _ in model.named_modules() if name]
        near = get_close_matches(source.part, names, n=3) or [name for name, _ in model.named_children()][:6]
        hint = f"; there are {', '.join(near)}" if near else "; leave it out, for it has no parts"
        raise LoadError(f"{source.written} has no part {source.part!r}{hint}") from None


def _filled(model: nn.Module, part: nn.Module, tensors: dict[str, Tensor], source: Source, place: str) -> Filled:
    """Fill the whole model or, where only the part that is audited fits, that."""
    prefix = source.options.get("prefix")
    try:
        return fill(model, tensors, prefix, source.written)
    except LoadError:
        if part is model:
            raise
        for guess in (place, "") if prefix is None else (f"{prefix}.{place}", prefix):
            with suppress(LoadError):
                return fill(part, tensors, guess, source.written)
        raise


def _own(model: nn.Module) -> list[Tensor]:
    return [value for value in model.state_dict().values() if isinstance(value, torch.Tensor)]
