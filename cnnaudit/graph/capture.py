"""Captures a model as a functional graph and leaves the model as it was."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager, redirect_stderr
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim, export
from torch.utils import _pytree

from cnnaudit.call import Call
from cnnaudit.errors import GraphError
from cnnaudit.graph import ops
from cnnaudit.graph.dataflow import Dataflow
from cnnaudit.graph.model import ModelGraph
from cnnaudit.graph.outputs import logits_of
from cnnaudit.graph.sites import sites_of
from cnnaudit.site import Op

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

__all__ = ["capture", "capture_program", "evaluating", "fixed_batch"]

# What a forward that cannot be traced raises: torch's own errors are RuntimeErrors, the others come from
# the user's code when it meets a tensor without data.
_UNTRACEABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


_IMAGES = Call()


def capture(
    model: nn.Module, example: Tensor | Sequence[Tensor], *, call: Call = _IMAGES, head: str | None = None
) -> ModelGraph:
    """The model in evaluation mode as a graph of functional operators, with the sites found in it.

    The graph shares the model's parameters and buffers. The model itself, its modes, hooks and buffers,
    and the random number generators are as before afterwards, also when this raises.

    Args:
        model: Any module.
        example: At least two images, on the model's device, and with them whatever else it is called with, in the
            order of the call's names; their sizes are the graph's.
        call: How the model is called.
        head: Which of its outputs holds the logits; see :func:`cnnaudit.graph.outputs.logits_of`.

    Raises:
        GraphError: The model cannot be captured, or has no such output.
    """
    inputs = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    if len(inputs[0]) < 2:
        raise GraphError(f"capturing {_name(model)} needs a batch of at least 2 images, got {len(inputs[0])}")
    # Tensors of their own: export marks those it is given as dynamic, and a second export would obey the mark.
    example = [x.detach() for x in inputs]
    with evaluating(model), _undisturbed(inputs[0]):
        try:
            program = _exported(model, call, example, Dim.AUTO)
        except _UNTRACEABLE as reason:
            try:
                program = _exported(model, call, [x.detach() for x in inputs], Dim.STATIC)
            except _UNTRACEABLE:
                _check_that_it_runs(model, call, inputs)
                raise GraphError(_untraceable(model, reason)) from reason
    return _graph_of(program, call, head)


def capture_program(
    program: ExportedProgram, example: Sequence[Tensor], *, call: Call = _IMAGES, head: str | None = None
) -> ModelGraph:
    """The same of a program that was exported elsewhere.

    Raises:
        GraphError: it takes other inputs than the example, or has no such output.
    """
    placeholders = _placeholders(program)
    order = _order(program, call)
    if any(not all(isinstance(size, int) for size in ops.static_shape(node)) for node in placeholders):
        # It is for images of any size, and sites are for one.
        return capture(program.module(check_guards=False), example, call=call, head=head)
    for node, i in zip(placeholders, order, strict=True):
        if ops.static_shape(node) != tuple(example[i].shape[1:]):
            raise GraphError(
                f"the program was exported for {call.names[i]} of shape {ops.static_shape(node)}, and these are of "
                f"{tuple(example[i].shape[1:])}; give it such, or export it again with dynamic sizes"
            )
    with _undisturbed(example[0]):
        return _graph_of(program.run_decompositions({}), call, head)


def fixed_batch(program: ExportedProgram) -> int | None:
    """The only number of images that a program takes at once, None for any."""
    size = next((ops.shape(node)[0] for node in _placeholders(program) if ops.shape(node)), None)
    return size if isinstance(size, int) else None


def _graph_of(program: ExportedProgram, call: Call, head: str | None) -> ModelGraph:
    # The guards would refuse a last block of one image; the first block is compared with the model instead.
    module: GraphModule = program.module(check_guards=False)
    order = _order(program, call)
    taken = [node for node in module.graph.nodes if node.op == "placeholder"]
    paths = ["input", *(f"input.{name.removeprefix('images.')}" for name in call.names[1:])]
    entrances = {taken[order.index(i)]: path for i, path in enumerate(paths)}
    for node, i in zip(taken, order, strict=True):
        node.replace_all_uses_with(taken[order.index(i)])  # what is passed twice is one value
    module.recompile()
    flow = Dataflow(module.graph, entrances)
    sites = sites_of(flow, logits_of(module, program.call_spec.out_spec, head))
    if head and not any(site.op is Op.HEAD for site in sites):
        raise GraphError(
            f"head: {head} is not computed from the images, or not one value an image; name another output"
        )
    images = next(iter(entrances))
    batch = ops.shape(images)[0]
    return ModelGraph(
        module=module,
        sites=sites,
        batch=batch if isinstance(batch, int) else None,
        input_shape=ops.static_shape(images),
        channel_axes=flow.channel_axes(),
        order=order,
    )


def _placeholders(program: ExportedProgram) -> list[Node]:
    """What a program takes besides its parameters."""
    return [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]


def _order(program: ExportedProgram, call: Call) -> tuple[int, ...]:
    """For each value that a program takes, which of the call's names it is.

    Raises:
        GraphError: the program is called otherwise.
    """
    taken = program.call_spec.in_spec
    try:
        order = taken.flatten_up_to(call.arguments(range(len(call.names)))) if taken is not None else [0]
    except ValueError as error:
        raise GraphError(
            f"the program takes {taken.num_leaves if taken else 1} inputs, in another form than it is called with "
            f"({', '.join(call.names)}): say how under inputs:"
        ) from error
    return tuple(order)


def _exported(model: nn.Module, call: Call, example: Sequence[Tensor], batch: Any) -> ExportedProgram:
    args, kwargs = call.arguments(example)
    bound = signature(model.forward).bind(*args, **kwargs).arguments
    shapes = _pytree.tree_map(lambda _: {0: batch}, dict(bound))
    program = export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    functional: ExportedProgram = program.run_decompositions({})
    return functional


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


def _check_that_it_runs(model: nn.Module, call: Call, inputs: Sequence[Tensor]) -> None:
    """Tells a model that fails on these images apart from one that only cannot be traced."""
    args, kwargs = call.arguments([x.clone() for x in inputs])
    try:
        model(*args, **kwargs)
    except _UNTRACEABLE as reason:
        shapes = " and ".join(str(tuple(x.shape)) for x in inputs)
        raise GraphError(
            f"{_name(model)} does not run on a batch of shape {shapes}: {_first_line(reason)}\n"
            "Give it images of the size, channels and type it was trained with."
        ) from reason


def _untraceable(model: nn.Module, reason: Exception) -> str:
    named = [name for name, _ in model.named_children()][:6]
    parts = f" ({', '.join(named)})" if named else ""
    return (
        f"{_name(model)} cannot be captured as a graph: {_first_line(reason)}\n"
        "torch.export follows the forward without data: it cannot branch on a tensor's values "
        "(`if x.sum() > 0`, `.item()`, `.numpy()`). Replace such code by torch.where or a constant, "
        f"or audit a part of the model that has none: `part:` of `model:` names it{parts}."
    )


def _first_line(reason: Exception) -> str:
    text = next((line.strip() for line in str(reason).splitlines() if line.strip()), "no reason given")
    return f"{type(reason).__name__}: {text}"
