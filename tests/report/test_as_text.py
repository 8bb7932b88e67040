"""The report for a terminal is fit to read."""

import math
from dataclasses import replace

from cnnaudit.report import render
from cnnaudit.result import Outcome, Report, UnitCounts, Verdict


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


def report_of(*verdicts, **settings):
    rules = list(dict.fromkeys(v.rule for v in verdicts))
    return Report(
        spec={"path": "net.audit.yaml", "sha256": "0" * 64, "rules": rules},
        model={"source": "net.py:build", "weights": "w.safetensors", "sites": {"conv": 3}, "sha256": "1" * 64},
        data={"source": "x.npz", "n_images": 1200, "available": 5000, "order": "seeded", "sha256": "2" * 64},
        settings={"confidence": 0.95, "undecided": "fail"} | settings,
        verdicts=verdicts,
    )


MEASURED = {"value": 0.91234567, "low": 0.9, "high": 0.925, "bound": 0.9, "side": "max"}
FULL = report_of(
    verdict("a-passes", "pass", **MEASURED),
    verdict("b-fails", "fail", site="layer2.conv1", **MEASURED, detail="Bad.", advice="Mend it."),
    verdict(
        "b-fails",
        "fail",
        site="layer3.conv1",
        **MEASURED | {"value": 0.95},
        units=UnitCounts(16, 3, 1),
        worst=((5, 0.95, 0.94, 0.96), (2, 0.91, 0.9, 0.92)),
        detail="Bad.",
        advice="Mend it.",
    ),
    verdict("b-fails", "undecided", site="layer4.conv1", **MEASURED, n_needed=4321),
    verdict("c-elsewhere", "not_applicable", site="layer5.conv1", detail="Not measured: no zeros."),
    verdict("d-crashed", "error", site="layer6.conv1", detail="The metric crashed.", severity="note"),
    verdict("e-warns", "fail", site="layer7.conv1", **MEASURED, severity="warning", why="Because.", refs=("RISK-1",)),
)


class TestText:
    TEXT = render(FULL, "text")

    def test_lines_fit_a_terminal(self):
        assert max(map(len, self.TEXT.splitlines())) <= 110

    def test_the_worst_site_speaks_for_a_rule_and_the_others_are_named(self):
        (block,) = [b for b in self.TEXT.split("\n\n") if b.startswith("FAIL  b-fails")]
        assert block.splitlines() == [
            "FAIL  b-fails  net.audit.yaml:7",
            "  layer     layer3.conv1 (conv)",
            "  also      layer2.conv1 (0.9123)",
            "  measured  activity.apoz = 0.95 fraction, 95 % interval [0.9, 0.925]",
            "  bound     max 0.9",
            "  units     3 of 16 kernels violate the bound, 1 undecided; worst: 5 (0.95), 2 (0.91)",
            "  images    1,200 read",
            "  means     Bad.",
            "  do        Mend it.",
        ]

    def test_undecided_names_the_images_needed(self):
        assert "  images    1,200 read, about 4,321 needed" in self.TEXT

    def test_a_warning_says_that_it_is_one_and_why_it_is_there(self):
        assert "FAIL  e-warns  (warning)  net.audit.yaml:7\n  why       Because.\n" in self.TEXT

    def test_heading_and_last_line(self):
        assert self.TEXT.startswith(
            "model  net.py:build with w.safetensors: 3 conv\ndata   x.npz: 1,200 of 5,000 images, order seeded\n"
        )
        assert self.TEXT.splitlines()[-1] == (
            "NOT PASSED: 5 rules, 1 passed, 2 failed, 1 not applicable, 1 could not be evaluated (exit 2)"
        )

    def test_table_has_a_row_for_each_rule(self):
        rows = [line.split()[:2] for line in self.TEXT.splitlines()]
        for outcome, rule in [("PASS", "a-passes"), ("FAIL", "b-fails"), ("ERROR", "d-crashed"), ("FAIL", "e-warns")]:
            assert [outcome, rule] in rows

    def test_notes_are_printed(self):
        noted = Report(**{**vars(report_of(verdict("a", "pass", **MEASURED))), "notes": ("Read in its own order.",)})
        assert "\nnote  Read in its own order.\n" in render(noted, "text")


NOTE = {"severity": "note", "pack": "cnnaudit:recommended", "file": "cnnaudit:recommended", "line": 12}


def measured(site, value, rule="shares", **facts):
    numbers = {"value": value, "low": value - 0.1, "high": value + 0.1, "units": UnitCounts(1)}
    return verdict(rule, "measured", site=site, **{**numbers, **NOTE, **facts})


def sections(*verdicts, **facts):
    return render(report_of(*verdicts, **facts), "text").split("\n\n")


class TestMeasured:
    def test_one_row_tells_the_range_and_a_list_the_sites(self):
        found = sections(
            verdict("a-passes", "pass", **MEASURED),
            measured("layer1", 0.25, why="Because."),
            measured("layer2", 0.75, detail="Too few images to rely on it."),
        )
        row = next(line for line in found[1].splitlines() if "shares" in line)
        assert row.split() == ["MEASURED", "shares", "2", "0.25", "to", "0.75"]
        assert found[2].splitlines() == [
            "MEASURED  shares  cnnaudit:recommended:12",
            "  why       Because.",
            "  site    activity.apoz    interval      fraction",
            "  layer1  0.25             [0.15, 0.35]",
            "  layer2  0.75             [0.65, 0.85]",
            "  note      layer2: Too few images to rely on it.",
        ]
        assert found[-1] == "PASSED: 2 rules, 1 passed, 1 measured only (exit 0)\n"

    def test_one_site_is_told_in_its_row(self):
        (_, table, *_) = sections(measured("layer1", 0.25))
        row = next(line for line in table.splitlines() if "shares" in line)
        assert row.split() == ["MEASURED", "shares", "1", "layer1", "0.25", "[0.15,", "0.35]"]

    def test_units_are_told_from_the_lowest_to_the_highest(self):
        worst = ((3, 0.1, 0.0, 0.2), (5, 0.9, 0.8, 1.0))
        (_, _, listed, *_) = sections(measured("layer1", 0.5, units=UnitCounts(64), worst=worst))
        assert listed.splitlines()[-1].split("  ")[-1].strip() == "0.1 to 0.9 over 64 units"
        (_, _, listed, *_) = sections(measured("layer1", 0.5, units=UnitCounts(1), reduce="mean"))
        assert listed.endswith("mean of the units")

    def test_the_twin_has_a_column(self):
        (_, _, listed, *_) = sections(measured("layer1", 0.5, null=0.125))
        assert listed.splitlines()[1].split()[-3:] == ["null", "twin", "fraction"]
        assert listed.splitlines()[2].split()[-1] == "0.125"

    def test_of_many_sites_the_lowest_and_the_highest_are_listed_in_their_order(self):
        values = [7, 0, 1, 2, 3, 4, 5, 6, 8, 9]
        (_, _, listed, *_) = sections(*(measured(f"layer{i}", float(x)) for i, x in enumerate(values)))
        sites = [line.split()[0] for line in listed.splitlines()[2:-1]]
        assert sites == ["layer0", "layer1", "layer2", "layer3", "layer4", "layer7", "layer8", "layer9"]
        assert listed.splitlines()[-1] == "  2 sites with values between these: see --format json"

    def test_what_is_undefined_everywhere(self):
        (_, table, *_) = sections(*(measured(site, math.nan, detail="0 / 0.") for site in ("a", "b")))
        assert next(line for line in table.splitlines() if "shares" in line).split()[-1] == "undefined"

    def test_where_nothing_was_judged_the_last_line_says_so(self):
        *_, last = sections(measured("layer1", 0.5))
        assert last == "NOT PASSED: 1 rule, 1 measured only, nothing judged (exit 2)\n"


EXCESS = {"value": 0.75, "low": 0.5, "high": 1.0, "null": 0.15, "side": "min_excess", "bound": 0.8}


class TestTwins:
    def test_an_excess_is_told_over_what(self):
        found = sections(verdict("a", "fail", **EXCESS))[1].splitlines()
        assert (
            "  measured  activity.apoz: excess 0.75 fraction over its null twin's 0.15, 95 % interval [0.5, 1]" in found
        )
        assert "  bound     min_excess 0.8" in found

    def test_beside_another_bound_the_twin_is_told(self):
        found = sections(verdict("a", "fail", **EXCESS | {"side": "min"}))[1].splitlines()
        assert "  measured  activity.apoz = 0.75 fraction, 95 % interval [0.5, 1]; its null twin has 0.15" in found


def test_the_heading_names_what_is_extended():
    report = report_of(verdict("a", "pass", **MEASURED))
    bases = [{"name": "cnnaudit:residual", "version": 3}, {"name": "../base.yaml", "version": 0}]
    for without, told in ([], ""), (["x", "y"], ", without x, y"):
        extended = replace(report, spec={**report.spec, "extends": bases, "without": without})
        line = render(extended, "text").splitlines()[2]
        assert line == f"rules  extends cnnaudit:residual (version 3), ../base.yaml{told}"


def test_the_heading_tells_how_the_network_ran():
    ran = {"mode": "evaluation", "dtype": "float16", "device": "cpu", "memory_format": "channels_last"}
    report = report_of(verdict("a", "pass", **MEASURED), **ran)
    several = {"exported": True, "inputs": ["a", "b"], "head": "fc"}
    told = replace(report, model=report.model | several, data=report.data | {"transform": "resize 256, crop 224"})
    assert render(told, "text").splitlines()[2:4] == [
        "input  resize 256, crop 224",
        "run    an exported program, called with a, b, evaluation mode, float16 on cpu, channels_last, logits of fc",
    ]
    plain = replace(report, model=report.model | {"exported": False, "inputs": ["images"], "head": ""})
    assert render(plain, "text").splitlines()[2] == "run    evaluation mode, float16 on cpu, channels_last"


def test_a_rule_of_a_pack_takes_one_line_where_it_does_not_apply():
    def nowhere(site, detail, **facts):
        return verdict("everywhere", "not_applicable", site=site, detail=f"Not measured: {detail}.", **facts)

    elsewhere = [("layer1", "no zeros"), ("layer2", "no zeros"), ("layer3", "one position")]
    own = sections(verdict("a", "pass", **MEASURED), *(nowhere(*each) for each in elsewhere))
    assert own[2].splitlines() == [
        "n/a   everywhere at layer1 and 1 more site: no zeros.",
        "n/a   everywhere at layer3: one position.",
    ]
    pack = sections(verdict("a", "pass", **MEASURED), *(nowhere(*each, **NOTE) for each in elsewhere))
    assert pack[2] == "n/a   everywhere at layer1 and 2 more sites: no zeros. (and 1 more reason: see --format json)"


WAIVER = {
    "owner": "ann",
    "reason": "Pruned on purpose.",
    "category": "accepted_risk",
    "approved_by": "bob",
    "approved_on": "2026-11-01",
    "expires": "2027-03-01",
    "ticket": "NET-12",
    "worst": 0.95,
    "place": "net.waivers.yaml:4",
    "outcome": "fail",
}


class TestGate:
    def test_what_is_waived_is_told_by_its_waiver_and_counted(self):
        waived = {"waiver": WAIVER, "detail": "Bad.", "advice": "Mend it."} | MEASURED
        found = sections(
            verdict("a", "waived", site="layer2", **waived),
            verdict("a", "waived", site="layer1", **waived | {"value": 0.94}),
            verdict("a", "pass", **MEASURED),
        )
        assert found[1].splitlines() == [
            "WAIVED  a  net.audit.yaml:7",
            "  accepted  accepted_risk by ann until 2027-03-01, approved by bob on 2026-11-01, ticket NET-12",
            "            (net.waivers.yaml:4)",
            "  because   Pruned on purpose.",
            "  waived    FAIL without this waiver, which accepts nothing worse than 0.95",
            "  layer     layer1 (conv)",
            "  also      layer2 (0.9123)",
            "  measured  activity.apoz = 0.94 fraction, 95 % interval [0.9, 0.925]",
            "  bound     max 0.9",
            "  units     0 of 16 kernels violate the bound",
            "  images    1,200 read",
            "  means     Bad.",
        ]
        assert found[2].splitlines()[-1].split()[:4] == ["WAIVED", "a", "1/3", "layer1"]
        assert found[-1] == "PASSED: 1 rule, 1 waived (exit 0)\n"

    def test_each_waiver_has_its_block(self):
        waivers = [WAIVER | {"place": f"w.yaml:{line}"} for line in (4, 9)]
        verdicts = [verdict("a", "waived", site=w["place"], waiver=w, **MEASURED) for w in waivers]
        blocks = [block for block in sections(*verdicts) if block.startswith("WAIVED")]
        assert ["w.yaml:4" in block for block in blocks] == [True, False]

    def test_a_regression_is_told_in_words(self):
        worse = {"value": 0.031, "low": 0.021, "high": 0.041, "bound": 0.02, "side": "max_regression"}
        facts = {"unit": "bits", "baseline": 0.62, "reduce": "mean"}
        found = sections(verdict("a:regression", "fail", **worse, **facts))
        assert found[1].splitlines()[1:] == [
            "  layer     layer1.conv1 (conv)",
            "  measured  activity.apoz: 0.031 bits worse than the baseline's 0.62, at most 0.02 allowed, 95 % interval",
            "            [0.021, 0.041]",
            "  bound     max_regression 0.02",
            "  units     judged by the mean of the site's units",
            "  images    1,200 read",
        ]

    def test_what_a_gate_found_of_the_audit_has_no_numbers_and_no_site(self):
        nowhere = {"metric": "", "field": "", "unit": "", "op": "", "site": "", "n_images": 0, "units": UnitCounts()}
        told = {"detail": "It covers nothing.", "advice": "Remove it.", "severity": "warning"}
        found = sections(verdict("waivers:unused", "fail", file="w.yaml", line=9, **nowhere, **told))
        assert found[1].splitlines() == [
            "FAIL  waivers:unused  (warning)  w.yaml:9",
            "  means     It covers nothing.",
            "  do        Remove it.",
        ]
        assert found[2].splitlines()[-1].split() == ["FAIL", "waivers:unused"]

    def test_a_bound_that_changed_is_told_where_the_rule_passes_too(self):
        changed = {"changed": "max 0.75 -> 0.9"}
        found = sections(
            verdict("a", "pass", site="x", **MEASURED, **changed),
            verdict("a", "pass", site="y", **MEASURED, **changed),
            verdict("b", "fail", **MEASURED, **changed),
        )
        assert "  changed   after the evidence existed: max 0.75 -> 0.9" in found[1].splitlines()
        assert found[3].splitlines() == [
            "later a changed after the evidence existed: max 0.75 -> 0.9",
            "later b changed after the evidence existed: max 0.75 -> 0.9",
        ]

    def test_coverage_and_what_was_used(self):
        missing = [{"site": "pool1", "op": "pool"}]
        report = replace(
            report_of(verdict("a", "pass", **MEASURED)),
            coverage={"sites": 3, "covered": 2, "not_covered": missing},
            gate={"as_of": "2026-12-01", "baseline": {"path": "accepted.json", "sha256": "a" * 64}},
        )
        text = render(report, "text")
        assert "\n\ncover 2 of 3 sites are under a rule; not covered: pool1\n\n" in text
        assert text.splitlines()[2] == "gate   baseline accepted.json (sha256 aaaaaaaaaaaa), as of 2026-12-01"

    def test_the_date_alone_decides_nothing(self):
        report = replace(report_of(verdict("a", "pass", **MEASURED)), gate={"as_of": "2026-12-01"})
        assert "2026-12-01" not in render(report, "text")


def test_the_name_of_a_site_gives_no_commands_to_a_terminal():
    text = render(report_of(verdict("a", "fail", site="x\x1b[31m\x07\u202ey", **MEASURED)), "text")
    assert "  layer     x[31my (conv)" in text.splitlines()
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
