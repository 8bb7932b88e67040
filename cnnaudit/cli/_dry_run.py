"""What ``check --dry-run`` prints: sites, rules, memory and images needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tabulate import tabulate

from cnnaudit.facts import coverage, model_facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.pipeline import Prepared
    from cnnaudit.site import Site
    from cnnaudit.spec import Rule

__all__ = ["describe"]


def describe(prepared: Prepared) -> str:
    """Return the sites with the rules that cover them by number, then the rules with what they need."""
    plan, spec = prepared.plan, prepared.spec
    found = coverage(plan, prepared.graph.sites)
    sites = [_site(site, prepared) for site in prepared.graph.sites]
    rules = [_rule(number, rule, prepared) for number, rule in enumerate(spec.rules, 1)]
    absent = [f"{spec.place(rule)}: rule {rule.id!r} selects nothing: {message}" for rule, message in plan.absent]
    count = prepared.images.count
    images = "an unknown number of images" if count is None else f"{count:,} images"
    needed = "sources needed" if prepared.images.clustered else "images needed"
    columns = ["site", "op", "units", "map", "kernel", "stride", "sees", "taps", "KiB", "rules"]
    parts = [
        tabulate(sites, headers=columns, disable_numparse=True),
        tabulate(rules, headers=["#", "rule", "line", "bound", "sites", "n/a", needed], disable_numparse=True),
        *absent,
        f"{found['sites']} sites, {found['covered']} under a rule that judges; {images}, {_looks(prepared)}; "
        f"statistics of {plan.bytes / 2**20:,.1f} MiB, of {spec.sampling.max_memory / 2**20:,.0f} MiB allowed",
        _calling(prepared),
    ]
    return "\n\n".join(parts)


def _calling(prepared: Prepared) -> str:
    """What the network is shown, how it is called and where its logits are."""
    model, data = model_facts(prepared), prepared.images.facts
    lines = {
        "transform": data["transform"] or "none: images go in as they are",
        "inputs": f"{', '.join(model['inputs'])}; the first is {' x '.join(map(str, model['input_shape']))}",
        "logits": model["head"] or "none: no output is taken for them",
    }
    return "\n".join(f"{name:<9} {told}" for name, told in lines.items())


def _looks(prepared: Prepared) -> str:
    if len(prepared.looks) == 1:
        return "one look at the end"
    return "looks at " + ", ".join(f"{look.images:,}" for look in prepared.looks)


def _site(site: Site, prepared: Prepared) -> Sequence[str]:
    plan = prepared.plan
    tap = site.taps.get("output") or site.taps.get("sum")
    kind = f"{site.operator} {site.op}" if site.operator else str(site.op)
    mine = [c for c in plan.checks if c.places[-1:] == (site,) and c.probe is not None]
    numbers = [str(i) for i, rule in enumerate(prepared.spec.rules, 1) if any(c.rule is rule for c in mine)]
    size = sum(p.statistic.size(p, plan.groups, prepared.classes) for p in {p for c in mine for p in c.probes})
    return [
        site.path,
        f"global {kind}" if site.is_global else kind,
        str(site.units),
        _times(tap.spatial) if tap else "",
        _times(site.kernel),
        _times(site.stride),
        _times(site.receptive_field),
        " ".join(site.taps),
        f"{size / 1024:,.0f}" if size else "",
        " ".join(numbers) or "-",
    ]


def _rule(number: int, rule: Rule, prepared: Prepared) -> Sequence[str]:
    alpha = (1 - prepared.spec.sampling.confidence) * prepared.looks[-1].spent
    checks = [c for c in prepared.plan.checks if c.rule is rule]
    judged = [c for c in checks if c.probe is not None]
    needed = max((c.images(prepared.classes, alpha) for c in judged), default=0)
    counts = [str(len(judged)), str(len(checks) - len(judged))]
    line = f"{rule.file}:{rule.line}" if rule.file else str(rule.line)
    bounds = ", ".join(f"{side} {bound:g}" for side, bound in rule.bounds.items()) or "measured only"
    return [str(number), rule.id, line, bounds, *counts, f"{needed:,}" if judged else ""]


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
