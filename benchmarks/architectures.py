"""Every kind of network there is: torchvision's classifiers up to 120 M parameters and one model of each timm family.

Each is captured, its sites are found, the recommended pack is planned and run on a few random images, and what its
graph returns is compared with what the model returns, bit by bit; where torch takes another kernel for the same sums,
the last digits may differ, and it is told. Weights are random and no model is known by name.
About half an hour on two cores; ``--rows`` keeps what is done, so that a run that was stopped goes on:

    python benchmarks/architectures.py --jobs 2 --rows rows.jsonl --write docs/architectures.md

A family of timm is the letters that the names of its models start with, where ``tf_``, ``gc_`` and ``legacy_`` do not
count: they say how a model was made. Of each the model of fewest parameters is taken, and beside these the smallest one
of each of timm's modules that none of them comes from. Exits with 1 where one network fails.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import multiprocessing
import re
import resource
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import timm
import torch
import torchvision
from tabulate import tabulate
from torch import fx, nn
from tqdm import tqdm

from cnnaudit.judge import decide
from cnnaudit.pipeline import measure_all
from cnnaudit.result import Outcome
from cnnaudit.site import Op

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from multiprocessing.connection import Connection

    from torch import Tensor

    from cnnaudit import Verdict
    from cnnaudit.graph import ModelGraph
    from cnnaudit.pipeline import Measured

LARGEST = 120_000_000  # parameters of a torchvision model
SIDES = (64, 96, 128, 160, 192, 224, 256)  # pixels; below, the last maps of most networks are single positions
IMAGES, BLOCK, CLASSES = 4, 2, 2
ROUNDING = 1e-5  # of the largest output
PATIENCE = 900  # seconds for one network
KINDS = ("conv", "linear", "residual", "merge", "concat", "gate", "pool")
SPEC = {"cnnaudit": 1, "extends": "cnnaudit:recommended", "sampling": {"block": BLOCK, "looks": 1}}
BEGIN, END = "<!-- table: benchmarks/architectures.py -->", "<!-- end of table -->"
PROCESSES = multiprocessing.get_context("forkserver")
# What a network may raise that is given images of another size than it wants.
_UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Network(NamedTuple):
    """A network to run: its name behind its library's, as in a rule file, and what it stands for."""

    model: str
    family: str


def main() -> int:
    """Run all networks, print the table or write it into a page, and say how many passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="GLOB", default="*", help="the models to run, as in timm:resnet*")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time, each on one thread")
    parser.add_argument("--rows", type=Path, help="file that keeps each result; what passed there is not run again")
    parser.add_argument("--write", type=Path, help="page to put the table into")
    given = parser.parse_args()
    PROCESSES.set_forkserver_preload(["cnnaudit", "timm", "torch._dynamo", "torchvision"])
    rows = Rows(given.rows)
    chosen = [network for network in choose(rows, given.jobs) if fnmatch.fnmatch(network.model, given.only)]
    rows.fill([network.model for network in chosen], given.jobs)
    text = page(chosen, rows)
    print(text)
    if given.write is not None:
        before, _, rest = given.write.read_text(encoding="utf-8").partition(BEGIN)
        given.write.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return int(any(rows[network.model]["failure"] for network in chosen))


class Rows:
    """What is known of each network, kept in a file of one JSON object a line where there is one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
        self._known: dict[str, dict[str, Any]] = {row["model"]: row for row in map(json.loads, lines)}

    def __getitem__(self, model: str) -> dict[str, Any]:
        return self._known[model]

    def keep(self, row: dict[str, Any]) -> None:
        """Add a row, in place of an older one of the same model."""
        self._known[row["model"]] = row
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def parameters(self, models: Sequence[str], jobs: int) -> dict[str, int]:
        """How many parameters each model has."""
        known: dict[str, int] = self._known.get("", {}).get("parameters", {})
        missing = [model for model in models if model not in known]
        if missing:
            with PROCESSES.Pool(jobs) as pool:
                counts = list(tqdm(pool.imap(_parameters, missing, 4), "sizes", len(missing), disable=None))
            known |= zip(missing, counts, strict=True)
            self.keep({"model": "", "parameters": known})
        return known

    def fill(self, models: Sequence[str], jobs: int) -> None:
        """Run those of some models that have not passed yet."""
        missing = [model for model in models if self._known.get(model, {"failure": "not run"})["failure"]]
        missing.sort(key=self._known[""]["parameters"].get)  # what fails is seen soon
        with ThreadPoolExecutor(jobs) as pool:
            running = [pool.submit(in_a_process, model) for model in missing]
            for done in tqdm(as_completed(running), "networks", len(missing), disable=None):
                self.keep(done.result())


def choose(rows: Rows, jobs: int) -> list[Network]:
    """The networks that stand for all."""
    classifiers = [f"torchvision:{name}" for name in torchvision.models.list_models(module=torchvision.models)]
    models = [f"timm:{name}" for name in timm.list_models()]
    parameters = rows.parameters([*classifiers, *models], jobs)

    def smallest(of: Iterable[str]) -> str:
        return min(of, key=lambda model: (parameters[model], model))

    families: defaultdict[str, list[str]] = defaultdict(list)
    for model in models:
        families[family_of(model)].append(model)
    chosen = {smallest(of): family for family, of in families.items()}
    for module in timm.list_modules():
        of = {f"timm:{name}" for name in timm.list_models(module=module)}
        if not of & chosen.keys():
            chosen[smallest(of)] = f"({module})"
    small = [model for model in classifiers if parameters[model] <= LARGEST]
    return [*(Network(model, "") for model in small), *(Network(*item) for item in sorted(chosen.items()))]


def family_of(model: str) -> str:
    """The letters that the name of a timm model starts with, behind what only says how it was made."""
    found = re.match(r"timm:(?:tf_|gc_|legacy_)?([a-z]+)", model)
    assert found, model  # noqa: S101 - timm's names are lower case
    return found[1]


def _build(model: str) -> nn.Module:
    library, _, name = model.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, that drawing some of the weights takes long
        return timm.create_model(name) if library == "timm" else torchvision.models.get_model(name, weights=None)


def _parameters(model: str) -> int:
    if model.startswith("torchvision:"):
        return int(_told_by_torchvision(model)["num_params"])
    with torch.device("meta"):
        return _count(_build(model))


def _told_by_torchvision(model: str) -> dict[str, Any]:
    told: dict[str, Any] = torchvision.models.get_model_weights(model.partition(":")[2]).DEFAULT.meta
    return told


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def in_a_process(model: str) -> dict[str, Any]:
    """The row of a model, run in a process of its own, so that nothing it does can end the benchmark."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_send, args=(theirs, model))
    process.start()
    theirs.close()
    try:
        if ours.poll(PATIENCE):
            row: dict[str, Any] = ours.recv()
        else:
            row = {"model": model, "failure": f"not done after {PATIENCE} s"}
    except EOFError:
        process.join()
        row = {"model": model, "failure": f"the process ended with exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()
        ours.close()
    return row


def _send(end: Connection, model: str) -> None:
    torch.set_num_threads(1)
    try:
        row = measure(model)
    except Exception as error:  # noqa: BLE001 - whatever a network does wrong is what its row says
        told = (str(error).strip() or "no message").splitlines()[0]
        row = {"model": model, "failure": f"{type(error).__name__}: {told}", "trace": traceback.format_exc()}
    end.send(row)
    end.close()


def measure(model: str) -> dict[str, Any]:
    """What becomes of one model.

    Raises:
        CnnAuditError: it could not be captured or audited.
        RuntimeError: it does not run on random images of any size.
    """
    torch.manual_seed(0)
    network = _build(model)
    images = _images(model, network)
    enliven(network, images)
    start = time.process_time()
    # What cnnaudit.audit does, in two steps: the graph lies between them.
    measured = measure_all(SPEC, model=network, data=(images, torch.arange(IMAGES) % CLASSES))
    verdicts = _judged(measured)
    seconds = time.process_time() - start
    graph = measured.prepared.graph
    ops = Counter(site.op for site in graph.sites)
    same, largest = compared(graph, network, images[:BLOCK])
    broken = sorted({f"{v.rule} at {v.place}: {v.detail}" for v in verdicts if v.outcome is Outcome.ERROR})
    values = sum(v.outcome is not Outcome.NOT_APPLICABLE for v in verdicts)
    read = max((statistic.n_images for statistic in measured.statistics.values()), default=0)
    failure = "; ".join(broken[:3])
    if not failure and (read != IMAGES or not values):
        failure = f"{values} values of {read} images"
    if not failure and not same and not largest < ROUNDING:
        failure = f"the outputs of graph and model differ by {largest:.0e} of the largest"
    return {
        "model": model,
        "parameters": _count(network),
        "size": list(images.shape[1:]),
        "sites": {kind: ops[Op(kind)] for kind in KINDS},
        "values": values,
        "fixed_batch": graph.batch,
        "differ": largest,
        "seconds": round(seconds, 2),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "failure": failure,
    }


def _judged(measured: Measured) -> tuple[Verdict, ...]:
    ready = measured.prepared
    return decide(
        ready.plan,
        measured.statistics,
        ready.spec,
        classes=len(ready.images.met),
        values=ready.images.values,
        look=ready.looks[-1],
    )


def _images(model: str, network: nn.Module) -> Tensor:
    """Random images of the smallest size that the network takes, as its library describes it and as it proves."""
    channels, sides = 3, [(side, side) for side in SIDES]
    if model.startswith("timm:"):
        told = network.pretrained_cfg
        channels, *usual = told["input_size"]
        least = told.get("min_input_size", (3, 1, 1))[1:]
        sides = [] if told.get("fixed_input_size") else [s for s in sides if s >= tuple(least)]
        sides.append(tuple(usual))
    else:
        least = _told_by_torchvision(model)["min_size"]
        sides = [side for side in sides if side >= tuple(least)]
    failed: Exception | None = None
    network.eval()
    for side in sides:
        images = torch.randn(IMAGES, channels, *side)
        try:
            with torch.inference_mode():
                network(images[:2])
        except _UNFIT as error:
            failed = error
        else:
            return images
    raise RuntimeError(f"runs on random images of none of the sizes {sides}") from failed


def enliven(network: nn.Module, images: Tensor) -> None:
    """Take back what hides a wrong graph: parameters that are all 0 or 1, and norms that have seen nothing."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001 - of any rank
    with torch.no_grad():
        for parameter in network.parameters():
            if (parameter == parameter.flatten()[0]).all():
                parameter.add_(torch.rand_like(parameter) / 10)
        for norm in norms:
            norm.momentum = None
            norm.train()
        network(images)
    network.eval()


def compared(graph: ModelGraph, network: nn.Module, images: Tensor) -> tuple[bool, float]:
    """Whether graph and model return the same bits, and by how much of the largest value they differ."""
    with torch.inference_mode():
        ours = graph.output_tensors(fx.Interpreter(graph.module).run(images))
        theirs = graph.output_tensors(network(images))
    if [t.shape for t in ours] != [t.shape for t in theirs] or not all(t.isfinite().all() for t in theirs):
        return False, math.inf
    largest = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))
    return all(map(torch.equal, ours, theirs)), largest


def page(networks: Sequence[Network], rows: Rows) -> str:
    """The table of all networks, what failed, and how many passed."""
    failed = [(n.model, rows[n.model]["failure"]) for n in networks if rows[n.model]["failure"]]
    table = [_line(network, rows[network.model]) for network in networks if "sites" in rows[network.model]]
    parts = [tabulate(table, headers="keys", tablefmt="github", intfmt=",", floatfmt=".1f")]
    if failed:
        parts.append(tabulate(failed, headers=["failed", "because"], tablefmt="github"))
    parts.append(_passed(networks, rows))
    return "\n\n".join(parts)


def _line(network: Network, row: Mapping[str, Any]) -> dict[str, Any]:
    _, *side = row["size"]
    return {
        "model": network.model,
        "family": network.family,
        "parameters": row["parameters"],
        "pixels": "x".join(map(str, side)),
        **row["sites"],
        "values": row["values"],
        "CPU s": row["seconds"],
    }


def _passed(networks: Sequence[Network], rows: Rows) -> str:
    """How many of each kind passed."""
    kinds = {
        "timm families": [n for n in networks if n.family and not n.family.startswith("(")],
        "timm modules beside these": [n for n in networks if n.family.startswith("(")],
        "torchvision models": [n for n in networks if not n.family],
    }
    passed = {kind: sum(not rows[n.model]["failure"] for n in of) for kind, of in kinds.items()}
    told = ", ".join(f"{passed[kind]} of {len(of)} {kind}" for kind, of in kinds.items())
    rounded = {n.model: rows[n.model]["differ"] for n in networks if rows[n.model].get("differ")}
    differ = ", ".join(f"{model} by {largest:.0e} of the largest" for model, largest in rounded.items())
    return f"{told}; the same bits" + (f", but for {differ}" if differ else "")


if __name__ == "__main__":
    sys.exit(main())
