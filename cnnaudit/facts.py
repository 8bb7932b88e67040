"""What a report says of how it came about: model, settings, and what a reader must know."""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from cnnaudit.clock import today
from cnnaudit.judge import family_wise_error
from cnnaudit.metrics import registry
from cnnaudit.site import Op
from cnnaudit.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from cnnaudit.looks import Look
    from cnnaudit.pipeline import Prepared
    from cnnaudit.plan import Plan
    from cnnaudit.site import Site
    from cnnaudit.spec import Rule, Source, Spec

__all__ = [
    "TWIN_IMAGES",
    "conditions",
    "coverage",
    "home",
    "judging_settings",
    "model_facts",
    "notes",
    "settings",
    "spec_facts",
]

TWIN_IMAGES = 256


def home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return device and number type that a model's images need: those of its first floating parameter."""
    held = itertools.chain(model.parameters(), model.buffers())
    first = next((x for x in held if x.is_floating_point()), torch.empty(0))
    return first.device, first.dtype


def model_facts(prepared: Prepared) -> dict[str, Any]:
    """Return what was audited: the network, and how it is called."""
    spec, digest = prepared.spec, hashlib.sha256()
    for name, tensor in prepared.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    loaded, sites = prepared.loaded, prepared.graph.sites
    return {
        "source": spec.model.written if spec.model else f"a {type(prepared.model).__name__} from Python",
        "weights": spec.weights.written if spec.weights else "",
        "untrained": spec.model is not None and spec.weights is None and _untrained(spec.model),
        "sha256": digest.hexdigest(),
        "sites": dict(sorted(Counter(str(site.op) for site in sites if site.op is not Op.INPUT).items())),
        "parameters": sum(parameter.numel() for parameter in prepared.model.parameters()),
        "macs": sum(site.macs for site in sites),
        "input_shape": list(prepared.graph.input_shape),
        "inputs": list(prepared.images.call.names),
        "head": next((site.path for site in sites if site.op is Op.HEAD), ""),
        "weights_dtype": "" if loaded is None else loaded.weights_dtype,
        "exported": loaded is not None and loaded.program is not None,
    }


def spec_facts(spec: Spec) -> dict[str, Any]:
    """Return the rule file, and of each rule what it measures and what it allows."""
    return spec.facts | {"terms": {rule.id: _terms(rule) for rule in spec.rules}}


def _terms(rule: Rule) -> dict[str, Any]:
    measures = {
        "metric": registry()[rule.metric].identified(rule.params),
        "field": rule.field,
        "params": json.loads(json.dumps(dict(rule.params))),  # as a baseline's are read back
        "op": None if rule.op is None else str(rule.op),
        "at": list(rule.at),
        "from": list(rule.start),
        "by": None if rule.by is None else rule.by.column,
        "null": rule.null,
        "reduce": rule.reduce,
        "estimand": rule.estimand,
    }
    bounds = {"min": rule.min, "max": rule.max, "min_excess": rule.min_excess}
    return {
        "measures": measures,
        "bounds": bounds | {"share": rule.share, "severity": rule.severity},
        "max_regression": None if rule.max_regression is None else asdict(rule.max_regression),
    }


def coverage(plan: Plan, sites: Sequence[Site]) -> dict[str, Any]:
    """Return how many of the network's sites are under a rule that judges there, and which are not."""
    judging = [c for c in plan.checks if c.probe is not None and (c.rule.bounds or c.rule.max_regression)]
    covered = {place.path for check in judging for place in check.places}
    own = [site for site in sites if site.op is not Op.INPUT]
    return {
        "sites": len(own),
        "covered": sum(site.path in covered for site in own),
        "not_covered": [{"site": site.path, "op": str(site.op)} for site in own if site.path not in covered],
    }


def conditions(prepared: Prepared) -> dict[str, Any]:
    """Return under what the network ran, whatever was judged."""
    sampling = prepared.spec.sampling
    return {
        "seed": sampling.seed,
        "confidence": sampling.confidence,
        "block": sampling.block,
        "crop": sampling.crop,
        "max_images": sampling.max_images,
        "max_memory": sampling.max_memory,
        "groups": prepared.plan.groups,
        "statistics_bytes": prepared.plan.bytes,
        "metrics": _metrics(prepared.plan),
        "mode": "evaluation",
        "device": str(prepared.device),
        "dtype": str(home(prepared.model)[1]).removeprefix("torch."),
        "memory_format": _memory_format(prepared.model),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        "cnnaudit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def settings(prepared: Prepared) -> dict[str, Any]:
    """Return under what the network ran and was judged."""
    return (
        conditions(prepared)
        | judging_settings(prepared.spec, prepared.plan, prepared.looks)
        | {
            "date": today().isoformat(),
            "looks": [look.images or prepared.images.facts["n_images"] for look in prepared.looks],
            "twins": sorted(prepared.twins),
        }
    )


def judging_settings(spec: Spec, plan: Plan, looks: Sequence[Look]) -> dict[str, Any]:
    """Return under what was judged, whatever had been measured."""
    confidence = spec.sampling.confidence
    return {
        "confidence": confidence,
        "metrics": _metrics(plan),
        "undecided": spec.undecided,
        "alpha": [(1 - confidence) * look.spent for look in looks],
        "family_wise_error": family_wise_error(plan, spec),
    }


def _metrics(plan: Plan) -> list[str]:
    return sorted({check.metric.identified(check.rule.params) for check in plan.checks})


def _memory_format(model: nn.Module) -> str:
    """``channels_last`` where a kernel's values lie so that those of one position follow each other."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    kernels = [x for x in model.parameters() if x.dim() in formats and not x.is_contiguous()]
    return "channels_last" if any(x.is_contiguous(memory_format=formats[x.dim()]) for x in kernels) else "contiguous"


def _untrained(source: Source) -> bool:
    """Whether a zoo gives a network without trained weights; what a factory gives nobody knows."""
    hub = source.target.lower().replace("_", "-").startswith("hf-hub:")
    trained = source.options.get("pretrained", hub) or source.options.get("weights")
    return source.kind in ("torchvision", "timm") and not trained


def notes(prepared: Prepared) -> tuple[str, ...]:
    """Return what a reader must know, as sentences."""
    loaded, facts = prepared.loaded, prepared.images.facts
    told = [] if loaded is None else list(loaded.notes)
    source = prepared.spec.model
    if source is not None and source.kind != "exported" and prepared.spec.weights is None:
        how = "with random weights" if _untrained(source) else "with the weights it was returned with"
        told.append(f"No `weights:`: {source.written} was audited {how}.")
    for kind in prepared.twins:
        how = (
            "permuted within each tensor"
            if kind == "permuted"
            else f"fresh, drawn with seed {prepared.spec.sampling.seed}"
        )
        told.append(f"Null twin: the weights are {how}; batch norms know the first {TWIN_IMAGES} images under them.")
    if corrupt := facts["corrupt"]["count"]:
        known = facts["corrupt"]["told"]
        names = "; ".join(known) + ("; ..." if corrupt > len(known) else "")
        count = f"{corrupt:,} image{'s' * (corrupt != 1)}"
        told.append(f"Left out because they cannot be used: {count} ({names}).")
    if excluded := facts["excluded"]:
        told.append(f"None of these images is among the {excluded['images']:,} of {excluded['manifest']}.")
    if facts.get("ignored"):
        told.append(f"Files in the folder that are no images, and were not read: {facts['ignored']:,}.")
    if facts["source"] == "synthetic":
        told.append("The images are made up: the network runs, and no figure says anything about real images.")
    if prepared.images.integers:
        told.append("The images are whole numbers and went in as float32 without scaling.")
    if prepared.images.order == "as given":
        told.append("The data was read in the order it gave, not in a random one: intervals suppose that it is mixed.")
    sampled = [p for p in prepared.plan.probes if p.kernels is not None]
    if sampled:
        fewest = min(len(p.units) for p in sampled)
        told.append(f"Memory did not reach for all kernels: at {len(sampled)} places as few as {fewest} were sampled.")
    return tuple(told)
