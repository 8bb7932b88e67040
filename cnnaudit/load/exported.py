"""Programs that ``torch.export.save`` wrote."""

from __future__ import annotations

import logging
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._ops import OpOverload

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

    from cnnaudit.load.trust import Trust
    from cnnaudit.spec.source import Source

__all__ = ["check_evaluates", "load_exported"]

_WAY_OUT = "export it again after model.eval()"


def load_exported(source: Source, trust: Trust) -> ExportedProgram:
    """Load an exported program.

    Raises:
        LoadError: it is not trusted, in which case it is not even opened, is no exported program that this torch
            reads, or was exported in training mode.
    """
    if not trust.exported:
        raise LoadError(
            f"{source.written}: torch unpickles exported programs, which can run any code. If you trust the file, add "
            "--trust-model; otherwise name the code that builds the model and its weights as safetensors"
        )
    path = trust.opened(Path(source.target), source.written)
    _check_archive(path, source.written)
    logger = logging.getLogger("torch.export")
    disabled, logger.disabled = logger.disabled, True  # torch prints a traceback beside what it raises
    try:
        # Torch takes a path only where it ends in .pt2, and a link's end need not.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own buffers: the file loads or it does not
            program = torch.export.load(file)
    except Exception as error:
        raise LoadError(
            f"{source.written}: not an exported program that torch {torch.__version__} reads ({_first_line(error)}); "
            "write it with torch.export.save"
        ) from error
    finally:
        logger.disabled = disabled
    check_evaluates(program, source.written)
    return program


def _check_archive(path: Path, written: str) -> None:
    """Tell what is no exported program before torch does: it would take it for one of an older format."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        raise LoadError(f"{written}: not an exported program, or only the beginning of one") from None
    if not any(name.endswith(("/archive_format", "serialized_exported_program.json")) for name in names):
        script = any(name.endswith("/constants.pkl") for name in names)
        what = "a TorchScript archive" if script else "an archive of something else"
        raise LoadError(f"{written}: not an exported program but {what}: write it with torch.export.save")


def check_evaluates(program: ExportedProgram, written: str) -> None:
    """Refuse a program that trains.

    Raises:
        LoadError: a batch norm or dropout was exported in training mode: that is part of the program.
    """
    modules = [module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    trains = [node for module in modules for node in module.graph.nodes if _trains(node)]
    if trains:
        names = sorted({str(node.target) for node in trains})
        raise LoadError(
            f"{written}: the program was exported in training mode ({len(trains)} operators, such as {names[0]}): "
            f"it draws at random or norms by the batch at hand; {_WAY_OUT}"
        )


def _trains(node: Node) -> bool:
    if not isinstance(node.target, OpOverload):
        return False
    schema = node.target._schema  # noqa: SLF001 - there is no public way to an operator's signature
    names = [argument.name for argument in schema.arguments]
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    training = given.get("training") is True or given.get("train") is True
    if "batch_norm" in schema.name:
        # One without running statistics takes those of the batch in evaluation mode too.
        return training and given.get("running_mean") is not None
    # Dropout of whole maps and stochastic depth are written as draws of zeros and ones.
    return "bernoulli" in schema.name or (training and given.get("p") != 0)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
