"""Sites, rules, specs and checks made by hand, for tests that need no model and no file."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from unittest import mock

import torch

from cnnaudit import pipeline
from cnnaudit.graph import capture
from cnnaudit.judge import decide
from cnnaudit.looks import LAST
from cnnaudit.metrics import metric
from cnnaudit.metrics.base import Field
from cnnaudit.plan import Check, Plan
from cnnaudit.result import Verdict
from cnnaudit.site import Op, Site, Tap
from cnnaudit.spec import Rule, Spec
from cnnaudit.spec.model import Sampling
from cnnaudit.statistics import Probe, Statistic


def make_site(
    op=Op.CONV, units=3, *, taps=("response",), shape=(4, 4), atoms=(0.0,), nonnegative=True, **facts
) -> Site:
    """A site whose taps all have the same shape; window facts may be given as one number for each dimension."""
    for fact in ("kernel", "stride", "padding", "dilation"):
        if isinstance(facts.get(fact), int):
            facts[fact] = (facts[fact],) * len(shape)
    channels = facts.pop("channels", units)
    tap = Tap("node", (channels, *shape), atoms=atoms, nonnegative=nonnegative)
    return Site(facts.pop("path", "layer"), op, units, MappingProxyType(dict.fromkeys(taps, tap)), **facts)


def make_pool(shape=(4, 4), kernel=2, stride=None, *, units=1, operator="max", **facts) -> Site:
    stride = kernel if stride is None else stride
    return make_site(
        Op.POOL, units, taps=("input",), shape=shape, kernel=kernel, stride=stride, operator=operator, **facts
    )


def with_output(site, *sizes) -> Site:
    """A pool of which so many outputs are told, as those in ceil mode and adaptive ones need."""
    return replace(site, ceil_mode=True).with_taps({"output": Tap("node", (site.units, *sizes))})


def make_rule(metric="made_up", field="value", **facts) -> Rule:
    defaults = {
        "id": "rule",
        "why": "because",
        "params": {},
        "op": None,
        "at": ("**",),
        "min": None,
        "max": None,
        "share": 1.0,
        "reduce": "every",
        "severity": "error",
        "estimand": None,
        "if_absent": "error",
        "refs": (),
        "marks": (),
        "line": 3,
        "column": 5,
    }
    return Rule(metric=metric, field=field, **(defaults | facts))


def make_spec(*rules, confidence=0.95, undecided="fail") -> Spec:
    return Spec(
        path=None,
        directory=Path.cwd(),
        sha256="",
        model=None,
        weights=None,
        data=None,
        undecided=undecided,
        sampling=Sampling(confidence=confidence),
        rules=tuple(rules),
    )


def make_metric(values, *, reads=Statistic, at=Op.CONV, dataset=False, twins=None, **facts):
    """A metric of one field whose value at a site is ``values[site.path]`` (an Uncertain), or what it raises.

    What it is in a null twin, ``twins`` tell.
    """

    def made_up(statistic, site):
        found = (twins if statistic.probe.network else values)[site.path]
        if isinstance(found, BaseException):
            raise found
        return {"value": found}

    field = Field("bits", "a number made up for a test", dataset=dataset, exact=True)
    return metric(
        reads=reads, at=at, taps="response", fields={"value": field}, interval="", cost="light: nothing", **facts
    )(made_up)


def judged(
    rule,
    values,
    *,
    images=1000,
    sources=None,
    nonfinite=0,
    site_units=None,
    kernels=None,
    classes=2,
    spec=None,
    need=None,
    look=LAST,
    earlier=(),
    twin_nonfinite=0,
    **facts,
):
    """Decide one rule at the sites of ``values`` (path -> Uncertain); return the verdicts in their order.

    A value of type str is the reason why the metric does not apply at that site; ``need`` is the metric's own
    function for the fewest images.
    """
    made = make_metric(values, **facts, **({"images": need} if need else {}))
    checks, statistics = [], {}
    for path, value in values.items():
        units = len(value.value) if hasattr(value, "value") else 1
        site = make_site(units=site_units or units, path=path)
        if isinstance(value, str):
            checks.append(Check(rule, made, site, None, value))
            continue
        probe = Probe(Statistic, site, ("response",), kernels=kernels, clustered=sources is not None)
        for network in dict.fromkeys(("", rule.null)):
            own = replace(probe, network=network)
            broken = twin_nonfinite if network else nonfinite
            statistic = SimpleNamespace(n_images=images, n_sources=sources or images, nonfinite=broken, probe=own)
            statistic.pooled = lambda statistic=statistic: statistic
            statistic.images, statistic.leave_one_out = torch.tensor([images]), list
            statistics[own] = statistic
        checks.append(Check(rule, made, site, probe))
    plan = Plan(tuple(checks), (), tuple(statistics), 1, 0)
    return decide(plan, statistics, spec or make_spec(rule), classes=classes, look=look, earlier=earlier)


def judge_one(rule, value, **facts) -> Verdict:
    """Decide one rule at one site."""
    (verdict,) = judged(rule, {"layer": value}, **facts)
    return verdict


def every_pattern(entries: int, levels: int = 2) -> torch.Tensor:
    """All windows of ``entries`` values below ``levels``, int64 of shape (levels ** entries, entries)."""
    return torch.cartesian_prod(*[torch.arange(levels)] * entries).reshape(-1, entries)


def bernoulli_windows(entries: int, on: int, off: int) -> torch.Tensor:
    """Binary windows repeated so that their frequencies are exactly those of P(1) = on / (on + off)."""
    windows = every_pattern(entries)
    ones = windows.sum(1)
    return windows.repeat_interleave(on**ones * off ** (entries - ones), dim=0)


def as_maps(windows: torch.Tensor, *shape: int) -> torch.Tensor:
    """Windows as maps of one kernel, one window an image."""
    return windows.reshape(len(windows), 1, *shape)


@contextmanager
def captured_once(model, example):
    """Audits of one network again and again, which is exported only once."""
    with mock.patch.object(pipeline, "capture", return_value=capture(model, example)):
        yield
