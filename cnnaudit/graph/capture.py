"""Captures a model as a functional graph and leaves the model as it was."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim, export

from cnnaudit.errors import GraphError
from cnnaudit.graph.dataflow import Dataflow
from cnnaudit.graph.model import ModelGraph
from cnnaudit.graph.ops import shape
from cnnaudit.graph.sites import sites_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from torch.fx import GraphModule

__all__ = ["capture", "evaluating"]

# What a forward that cannot be traced raises: torch's own errors are RuntimeErrors, the others come from
# the user's code when it meets a tensor without data.
_UNTRACEABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def capture(model: nn.Module, example: Tensor) -> ModelGraph:
    """The model in evaluation mode as a graph of functional operators, with the sites found in it.

    The graph shares the model's parameters and buffers. The model itself, its modes, hooks and buffers,
    and the random number generators are as before afterwards, also when this raises.

    Args:
        model: Any module of one tensor input.
        example: At least two images, on the model's device; their size is the graph's.

    Raises:
        GraphError: The model cannot be captured.
    """
    if len(example) < 2:
        raise GraphError(f"capturing {_name(model)} needs a batch of at least 2 images, got {len(example)}")
    with evaluating(model), _undisturbed(example):
        try:
            module = _export(model, example, dynamic_batch=True)
        except _UNTRACEABLE as reason:
            try:
                module = _export(model, example, dynamic_batch=False)
            except _UNTRACEABLE:
                _check_that_it_runs(model, example)
                raise GraphError(_untraceable(model, reason)) from reason
    flow = Dataflow(module.graph)
    sites = sites_of(module, flow)
    placeholder = next(n for n in module.graph.nodes if n.op == "placeholder")
    batch = shape(placeholder)[0]
    return ModelGraph(
        module=module,
        sites=sites,
        batch=batch if isinstance(batch, int) else None,
        input_shape=tuple(example.shape[1:]),
        channel_axes=flow.channel_axes(),
    )


def _export(model: nn.Module, example: Tensor, *, dynamic_batch: bool) -> GraphModule:
    shapes = ({0: Dim.AUTO if dynamic_batch else Dim.STATIC},)
    # A tensor of its own: export marks the one it is given as dynamic, and a second export would obey the mark.
    program = export(model, (example.detach(),), dynamic_shapes=shapes, strict=False)
    # The guards would refuse a last block of one image; the first block is compared with the model instead.
    module: GraphModule = program.run_decompositions({}).module(check_guards=False)
    return module


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode; afterwards each attribute of each module is what it was.

    Modes are set one by one: ``model.train(mode)`` would thaw frozen batch norms, and runs user code.
    Attributes are put back because a forward may store what it computes, here tensors without data.
    """
    saved = [(module, dict(vars(module)), _containers(module)) for module in model.modules()]
    try:
        for module, _, _ in saved:
            module.training = False
        yield
    finally:
        for module, attributes, containers in saved:
            vars(module).clear()
            vars(module).update(attributes)
            for container, content in containers:
                container.clear()
                container.update(content)


def _containers(module: nn.Module) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    """The dicts of a module (parameters, buffers, hooks, the user's own) with copies of their content."""
    return [(value, dict(value)) for value in vars(module).values() if isinstance(value, dict)]


@contextmanager
def _undisturbed(example: Tensor) -> Iterator[None]:
    """Without gradients, the random state put back, and nothing said by torch while it exports."""
    devices = [] if example.device.type == "cpu" else [example.device]
    logger, tracer = logging.getLogger("torch"), logging.getLogger("torch.__trace")
    level, listeners = logger.level, tracer.handlers[:]
    with (
        torch.random.fork_rng(devices, device_type=example.device.type if devices else "cuda"),
        torch.no_grad(),
        warnings.catch_warnings(),
        redirect_stderr(io.StringIO()),  # torch prints the unfinished graph of a model it cannot export
    ):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        # It traces as soon as anything listens, and a test runner listens to every logger.
        tracer.handlers[:] = [h for h in listeners if type(h).__module__.startswith("torch.")]
        try:
            yield
        finally:
            logger.setLevel(level)
            tracer.handlers[:] = listeners


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _check_that_it_runs(model: nn.Module, example: Tensor) -> None:
    """Tells a model that fails on these images apart from one that only cannot be traced."""
    try:
        model(example.clone())
    except _UNTRACEABLE as reason:
        raise GraphError(
            f"{_name(model)} does not run on a batch of shape {tuple(example.shape)}: {_first_line(reason)}\n"
            "Give it images of the size, channels and type it was trained with."
        ) from reason


def _untraceable(model: nn.Module, reason: Exception) -> str:
    return (
        f"{_name(model)} cannot be captured as a graph: {_first_line(reason)}\n"
        "torch.export follows the forward without data: it cannot branch on a tensor's values "
        "(`if x.sum() > 0`, `.item()`, `.numpy()`). Replace such code by torch.where or a constant, "
        "or audit the part of the model that has none."
    )


def _first_line(reason: Exception) -> str:
    text = next((line.strip() for line in str(reason).splitlines() if line.strip()), "no reason given")
    return f"{type(reason).__name__}: {text}"
