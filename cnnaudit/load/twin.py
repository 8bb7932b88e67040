"""Null twins: a trained network without what it has learned, to see what its measures are without that."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    _Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

__all__ = ["make_twin"]

_LOOSE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def make_twin(model: nn.Module, kind: str, calls: Iterable[_Arguments], seed: int) -> nn.Module:
    """Return a copy of a model with weights that know nothing of any data.

    Batch norms get the statistics of the images under the new weights, because with those of the old ones maps may be
    dead or saturated for no reason but that (cumulative averages over blocks, everything else in evaluation mode).

    Args:
        model: The trained model, which is left as it is.
        kind: ``twin`` for freshly initialised weights, by each layer's own ``reset_parameters``, or ``permuted`` for
            the trained weights, permuted within each tensor. What ``reset_parameters`` does not change is permuted too.
        calls: Positional and keyword arguments of forward passes, for the batch norms.
        seed: Of the weights.

    Raises:
        LoadError: the model cannot be copied.
    """
    try:
        twin = copy.deepcopy(model)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        raise LoadError(
            f"a {type(model).__name__} cannot be copied for its null twin: {error}; take off what cannot be: an "
            "old-style weight_norm or spectral_norm with torch.nn.utils.remove_weight_norm or remove_spectral_norm"
        ) from error
    _refuse_fixed(twin)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in twin.modules():
            _forget(module, fresh=kind == "twin")
        with _recalibrating(twin) as norms:
            for call in calls if norms else ():
                args, kwargs = _pytree.tree_map(torch.clone, call)
                twin(*args, **kwargs)
    return twin


def _refuse_fixed(model: nn.Module) -> None:
    """Refuse what holds statistics of the trained weights that nobody can take anew.

    Raises:
        LoadError: there is such a module; under other weights its maps would be dead or exploded for that alone.
    """
    for name, module in model.named_modules():
        kept = dict(module.named_buffers(recurse=False))
        fixed = "running_mean" in kept and not isinstance(module, _BatchNorm)
        if fixed or {"_u", "_v"} <= kept.keys():
            raise LoadError(
                f"no null twin: {name} is a {type(module).__name__}, whose buffers are of the trained weights and are "
                "not taken anew; leave `null:` out"
            )


def _forget(module: nn.Module, *, fresh: bool) -> None:
    """Give a module's own parameters other values."""
    own = list(module.parameters(recurse=False))
    before = [parameter.clone() for parameter in own]
    reset = getattr(module, "reset_parameters", None)
    if fresh and own and callable(reset) and not _wants_arguments(reset):
        reset()
    for parameter, old in zip(own, before, strict=True):
        if torch.equal(parameter, old):
            order = torch.randperm(parameter.numel())
            parameter.copy_(old.flatten()[order.to(old.device)].reshape(old.shape))


def _wants_arguments(reset: Callable[..., object]) -> bool:
    """Whether a layer starts anew only with arguments that its author knows."""
    return any(p.default is p.empty and p.kind not in _LOOSE for p in signature(reset).parameters.values())


@contextmanager
def _recalibrating(model: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Everything in evaluation mode but batch norms that keep statistics, which start anew and average all blocks."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield norms
    finally:
        model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
