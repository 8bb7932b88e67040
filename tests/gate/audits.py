"""Reports made by hand, with means that a later run may be compared with."""

from dataclasses import replace

from cnnaudit.result import Outcome, Report, SiteMean, UnitCounts, Verdict

MEASURES = {"metric": "activity/1", "field": "apoz", "params": {}, "at": ["**"], "reduce": "every"}


def mean(value, low=None, high=None, groups=()):
    return SiteMean(value, value if low is None else low, value if high is None else high, tuple(groups))


def verdict(rule="sparse", site="conv1", outcome="pass", **facts):
    defaults = {
        "line": 7,
        "severity": "error",
        "metric": "activity",
        "field": "apoz",
        "unit": "fraction",
        "op": "conv",
        "n_images": 400,
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "bound": 0.9,
        "side": "max",
        "units": UnitCounts(8, 0, 0),
    }
    return Verdict(rule=rule, site=site, outcome=Outcome(outcome), **(defaults | facts))


def terms(worse="higher", absolute=0.1, relative=None, bounds=None, **measures):
    regression = {"absolute": absolute, "relative": relative, "worse": worse}
    return {
        "measures": MEASURES | measures,
        "bounds": {"min": None, "max": 0.9, "min_excess": None, "share": 1.0, "severity": "error"} | (bounds or {}),
        "max_regression": None if absolute is None and relative is None else regression,
    }


def report(*verdicts, rules=None, **facts):
    rules = {"sparse": terms()} if rules is None else rules
    found = Report(
        spec={"path": "net.audit.yaml", "sha256": "0" * 64, "rules": list(rules), "terms": rules},
        model={"source": "net.py:build", "weights": "w.safetensors", "sites": {"conv": 2}, "sha256": "1" * 64},
        data={"source": "x", "sha256": "2" * 64, "n_images": 400, "order": "seeded", "transform": "", "sources": None},
        settings={"confidence": 0.95, "undecided": "fail", "seed": 0, "crop": None, "groups": 4, "date": "2026-11-30"},
        verdicts=verdicts,
    )
    return replace(found, **{name: {**getattr(found, name), **value} for name, value in facts.items()})
