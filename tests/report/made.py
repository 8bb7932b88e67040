"""Reports made by hand, with everything that a format has to cope with."""

from cnnaudit.result import Outcome, Report, UnitCounts, Verdict

SEEN = {"value": 0.91234567, "low": 0.9, "high": 0.925, "bound": 0.85, "side": "max"}
WAIVER = {
    "owner": "ann",
    "reason": "pruned on purpose",
    "category": "accepted_risk",
    "approved_by": "bob",
    "approved_on": "2026-11-01",
    "expires": "2027-03-01",
    "ticket": "NET-12",
    "worst": 0.95,
    "place": "net.waivers.yaml:4",
    "outcome": "fail",
}


def verdict(rule, outcome, **facts):
    defaults = {
        "line": 7,
        "severity": "error",
        "metric": "activity",
        "field": "apoz",
        "unit": "fraction",
        "op": "conv",
        "site": "layer1.conv1",
        "n_images": 1200,
        "units": UnitCounts(16, 0, 0),
    }
    return Verdict(rule=rule, outcome=Outcome(outcome), **(defaults | facts))


def found(rule, outcome="fail", **facts):
    """What a gate adds: no metric, no value, and no site."""
    nowhere = dict.fromkeys(("metric", "field", "unit", "op", "site"), "")
    return verdict(rule, outcome, **({"n_images": 0, "units": UnitCounts()} | nowhere | facts))


def report_of(*verdicts, spec=(), settings=(), notes=(), **parts):
    return Report(
        spec={
            "path": "net.audit.yaml",
            "sha256": "0" * 64,
            "rules": list(dict.fromkeys(v.rule for v in verdicts if ":" not in v.rule)),
            "extends": [{"name": "cnnaudit:recommended", "version": 1, "sha256": "3" * 64}],
            "without": [],
        }
        | dict(spec),
        model={"source": "net.py:build", "weights": "w.safetensors", "sites": {"conv": 3}, "sha256": "1" * 64},
        data={"source": "x.npz", "n_images": 1200, "available": 5000, "order": "seeded", "sha256": "2" * 64},
        settings={"confidence": 0.95, "undecided": "fail", "cnnaudit": "0.1.0.dev0"} | dict(settings),
        verdicts=verdicts,
        notes=tuple(notes),
        **parts,
    )


WORSE = {"side": "max_regression", "bound": 0.02, "value": 0.05, "low": 0.03, "high": 0.07, "reduce": "mean"}
FULL = report_of(
    verdict("a-passes", "pass", **SEEN | {"bound": 0.95}),
    verdict("b-fails", "fail", site="layer2.conv1", line=12, **SEEN, detail="Bad.", advice="Mend it.", why="Because."),
    verdict(
        "b-fails", "fail", site="layer3.conv1", line=12, **SEEN | {"value": 0.95}, detail="Bad.", advice="Mend it."
    ),
    verdict("b-fails", "undecided", site="layer4.conv1", line=12, **SEEN, n_needed=4321),
    verdict("b-fails", "waived", site="layer8.conv1", line=12, **SEEN, waiver=WAIVER),
    verdict("b-fails", "pass", site="layer9.conv1", line=12, **SEEN | {"bound": 0.95}),
    verdict("b-fails:regression", "fail", site="layer2.conv1", line=12, baseline=0.4, **WORSE),
    verdict("b-fails:regression", "pass", site="layer3.conv1", line=12, baseline=0.4, **WORSE | {"value": 0.001}),
    verdict("c-elsewhere", "not_applicable", site="layer5.conv1", detail="Not measured: no zeros."),
    verdict("d-crashed", "error", site="layer6.conv1", detail="The metric crashed.", severity="note"),
    verdict("e-warns", "fail", site="layer7.conv1", **SEEN, severity="warning", refs=("RISK-1",)),
    verdict("f-notes", "fail", site="layer7.conv1", **SEEN, severity="note"),
    verdict("g-measured", "measured", site="layer7.conv1", value=1.5, low=1.4, high=1.6, severity="note"),
    verdict("h-by", "fail", slice="scanner=A", **SEEN),
    verdict("h-by", "undecided", slice="scanner=B", **SEEN, n_needed=900, n_sources=12),
    verdict("i-pack", "fail", **SEEN, file="cnnaudit:recommended", pack="cnnaudit:recommended"),
    verdict("j-file", "undecided", site="layer2.conv2", **SEEN, file="shared/base.audit.yaml", line=33),
    verdict("k-waived", "waived", site="layer8.conv2", **SEEN, waiver=WAIVER | {"place": "net.waivers.yaml:9"}),
    found("l-absent", "error", detail="The rule selects no site."),
    found("waivers:expired", severity="warning", file="net.waivers.yaml", line=4, detail="The waiver has expired."),
    found("waivers:expired", severity="warning", file="net.waivers.yaml", line=24, detail="Another has expired, too."),
    found("waivers:unused", severity="warning", file="net.waivers.yaml", line=14, detail="Nothing is waived by it."),
    found("audit:coverage", line=0, detail="57 of 61 sites are under a rule, 95 % are asked for."),
    notes=("The model was captured eagerly.",),
    coverage={"sites": 61, "covered": 57, "not_covered": [{"site": f"pool{n}", "op": "pool"} for n in range(4)]},
    gate={"as_of": "2026-12-01", "waivers": {"path": "net.waivers.yaml", "sha256": "4" * 64, "entries": 4}},
)
# Each is told apart from the others by its letters alone, whatever a format does to the rest.
NAMES = (
    'quoted"<1>&amp;',
    "naïve/ünïcödé|pipe",
    "two\nlines::error",
    "cdata]]>%25,a=b",
    "control\x00\x1b[31m\x07\rreturn",
    "under_score*star`tick`",
    "curly{0}${{secrets}}](javascript:x)",
)
AWKWARD = report_of(
    *(verdict(f"rule {name}", "fail", site=f"site {name}", why=f"why {name}", **SEEN) for name in NAMES),
    *(
        verdict(f"open {name}", "undecided", severity="warning", slice=f"slice={name}", site=f"at {name}", **SEEN)
        for name in NAMES
    ),
    *(
        verdict(f"rule {name}", "waived", site=f"held {name}", **SEEN, waiver=WAIVER | {"reason": name})
        for name in NAMES
    ),
    notes=[f"note {name}" for name in NAMES],
)
LENIENT = report_of(
    verdict("a", "undecided", **SEEN, n_needed=9000), verdict("b", "pass", **SEEN), settings={"undecided": "pass"}
)
EMPTY = report_of()
NOTHING_JUDGED = report_of(verdict("a", "measured", value=1.0, low=0.9, high=1.1), verdict("b", "not_applicable"))
MADE = {"full": FULL, "awkward": AWKWARD, "lenient": LENIENT, "empty": EMPTY, "nothing judged": NOTHING_JUDGED}
