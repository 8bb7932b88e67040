"""Rules that measure and judge nothing, and rules that compare with a null twin."""

import math

import numpy as np
import pytest
from builders import judge_one, judged, make_rule, make_site, make_spec
from scipy import stats

from cnnaudit.intervals import Exact, Jackknife, Normal
from cnnaudit.judge import decide, family_wise_error
from cnnaudit.looks import Look
from cnnaudit.metrics import Gate
from cnnaudit.plan import Check, Plan
from cnnaudit.result import Outcome, UnitCounts
from cnnaudit.statistics import Probe, Statistic

PASS, FAIL, UNDECIDED, MEASURED = Outcome.PASS, Outcome.FAIL, Outcome.UNDECIDED, Outcome.MEASURED


def normal(*values, error=1.0):
    return Normal(np.array(values, dtype=float), np.full(len(values), error))


def note(**facts):
    return make_rule(severity="note", **facts)


def twin(**facts):
    return make_rule(null="twin", **facts)


# --- rules without a bound ----------------------------------------------------------------------------------------


def test_of_several_units_the_one_in_the_middle_is_shown_with_the_lowest_and_the_highest():
    verdict = judge_one(note(), normal(5, 1, 9, 3, 7))
    reach = stats.norm.ppf(0.975)
    assert verdict.outcome is MEASURED
    assert (verdict.value, verdict.low, verdict.high) == (5, pytest.approx(5 - reach), pytest.approx(5 + reach))
    assert [(kernel, value) for kernel, value, _, _ in verdict.worst] == [(1, 1), (2, 9)]
    assert (verdict.bound, verdict.side, verdict.null) == (None, "", None)
    assert verdict.units == UnitCounts(5, 0, 0)
    assert (verdict.fields, verdict.detail, verdict.advice) == ({"value": 5}, "", "")


def test_one_unit_is_shown_once():
    assert len(judge_one(note(), normal(5)).worst) == 1


def test_of_an_even_number_the_lower_of_the_middle_ones_is_shown():
    assert judge_one(note(), normal(4, 1, 3, 2)).value == 2


def test_the_mean_is_shown_where_it_is_asked_for():
    verdict = judge_one(note(reduce="mean"), normal(1, 2, 9))
    assert (verdict.value, verdict.units.total) == (4, 1)


@pytest.mark.parametrize(
    "value", [normal(math.nan), normal(1e9), normal(5, error=math.inf), Exact(np.array([0.0]))], ids=str
)
def test_whatever_the_value_nothing_is_decided(value):
    verdict = judge_one(note(), value)
    assert verdict.outcome is MEASURED
    assert verdict.value == pytest.approx(value.value[0], nan_ok=True)


def test_units_without_a_value_are_left_out_and_counted():
    verdict = judge_one(note(), normal(math.nan, 1, math.nan, 5, 3))
    assert verdict.value == 3
    assert [kernel for kernel, *_ in verdict.worst] == [1, 3]
    assert verdict.detail == "The value is 0 / 0 for 2 of 5 units."
    every = judge_one(note(), normal(math.nan, math.nan))
    assert math.isnan(every.value)
    assert (every.worst, every.detail) == ((), "The value is 0 / 0 for 2 of 2 units.")


def test_with_too_few_images_the_value_is_shown_with_a_warning():
    verdict = judge_one(note(), normal(5), images=20, need=lambda need: 100)
    assert (verdict.outcome, verdict.value, verdict.n_needed) == (MEASURED, 5, 100)
    assert verdict.detail == "Too few images to rely on it: this metric needs 100 here."
    gate = Gate(np.array([70]), "too few windows")
    sources = judge_one(note(), normal(5), sources=10, gate=lambda *_: gate)
    assert sources.detail == "Too few sources to rely on it: too few windows."


def test_where_memory_did_not_reach_the_verdict_says_so():
    verdict = judge_one(note(), normal(1, 2, 3), kernels=(4, 8, 9), site_units=64)
    assert (verdict.units.total, verdict.detail) == (64, "Memory reached for 3 of 64 kernels.")
    assert [kernel for kernel, *_ in verdict.worst] == [4, 9]


def test_it_is_shown_at_the_last_look_only():
    (early,) = judged(note(), {"layer": normal(5)}, look=Look(1, 256, spent=0.5, last=False))
    assert (early.outcome, early.value) == (MEASURED, None)
    (late,) = judged(note(), {"layer": normal(5)}, earlier=[early])
    assert late.value == 5


def test_what_could_not_be_measured_is_an_error():
    assert judge_one(note(), normal(5), nonfinite=3).outcome is Outcome.ERROR
    assert judge_one(note(), RuntimeError("broken")).outcome is Outcome.ERROR
    (verdict, nowhere) = judged(note(), {"layer": "no meaning here"})
    assert (verdict.outcome, nowhere.outcome) == (Outcome.NOT_APPLICABLE, Outcome.ERROR)
    (skipped,) = judged(note(if_absent="skip"), {"layer": "no meaning here"})
    assert skipped.outcome is Outcome.NOT_APPLICABLE


def test_a_slice_without_images_has_nothing_to_show():
    site = make_site(units=1)
    rule = note(if_absent="skip")
    probe = Probe(Statistic, site, ("response",), by="scanner")
    plan = Plan((Check(rule, _made(rule), site, probe),), (), (probe,), 1, 0)
    (verdict,) = decide(plan, {}, make_spec(rule), classes=2, values={"scanner": ["a"]})
    assert (verdict.outcome, verdict.slice) == (Outcome.NOT_APPLICABLE, "scanner=a")
    assert verdict.detail == "Not measured: no image of this slice was read."


def _made(rule):
    from builders import make_metric

    return make_metric({})


def test_it_costs_no_error():
    site = make_site(units=1)
    probe = Probe(Statistic, site, ("response",))
    rules = note(id="a"), make_rule(id="b", min=0)
    plan = Plan(tuple(Check(rule, _made(rule), site, probe) for rule in rules), (), (probe,), 1, 0)
    assert family_wise_error(plan, make_spec(*rules))["false_fail"] == pytest.approx(0.05)


def test_verdicts_tell_what_a_rule_was_taken_over_from():
    verdict = judge_one(note(pack="cnnaudit:recommended", file="cnnaudit:recommended", line=12), normal(5))
    assert (verdict.pack, verdict.file, verdict.line) == ("cnnaudit:recommended", "cnnaudit:recommended", 12)


# --- null twins ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (9.0, PASS),
        (1.0, UNDECIDED),
        (-9.0, FAIL),
        # Both at half of the level: 2 z_.025 = 3.92 above the bound, not z_.05 times the root of two.
        (3.95, PASS),
        (3.85, UNDECIDED),
        (-3.95, FAIL),
        (-3.85, UNDECIDED),
    ],
)
def test_the_excess_over_the_twin_is_judged(value, outcome):
    verdict = judge_one(twin(min_excess=1), normal(value + 6), twins={"layer": normal(5)})
    assert verdict.outcome is outcome
    assert (verdict.side, verdict.bound, verdict.null) == ("min_excess", 1, 5)
    assert verdict.value == pytest.approx(value + 1)
    z = stats.norm.ppf(0.9875)
    assert (verdict.low, verdict.high) == (pytest.approx(value + 1 - 2 * z), pytest.approx(value + 1 + 2 * z))
    assert verdict.fields == {"value": pytest.approx(value + 6)}


def test_jackknives_over_the_same_groups_are_paired():
    random = np.random.default_rng(0)
    shared, own = random.normal(size=(30, 1)), random.normal(0, 0.01, size=(30, 1))
    sizes = np.full(30, 10.0)
    # Groups move both alike, by more than the excess.
    value = Jackknife(np.array([1.0]), 1 + shared + own, sizes)
    null = Jackknife(np.array([0.0]), shared, sizes)
    assert judge_one(twin(min_excess=0.2), value, twins={"layer": null}).outcome is PASS
    assert judge_one(twin(min_excess=0.2), value, twins={"layer": normal(0)}).outcome is UNDECIDED


def test_without_a_bound_on_the_excess_the_twin_is_shown():
    verdict = judge_one(twin(min=0), normal(9), twins={"layer": normal(20)})
    assert (verdict.outcome, verdict.value, verdict.null, verdict.side) == (PASS, 9, 20, "min")
    measured = judge_one(twin(severity="note"), normal(1, 5, 9), twins={"layer": normal(30, 10, 20)})
    # No kernel of the twin is the counterpart of one of the network: the middle of both.
    assert (measured.outcome, measured.value, measured.null) == (MEASURED, 5, 20)


def test_a_bound_and_one_on_the_excess():
    rule = twin(max=10, min_excess=1)
    keeps = judge_one(rule, normal(3), twins={"layer": normal(-9)})
    assert keeps.outcome is PASS
    above = judge_one(rule, normal(20), twins={"layer": normal(-9)})
    assert (above.outcome, above.side, above.value) == (FAIL, "max", 20)
    like = judge_one(rule, normal(3), twins={"layer": normal(9)})
    assert (like.outcome, like.side, like.value, like.null) == (FAIL, "min_excess", -6, 9)
    assert like.detail.startswith("The value is not so far above that of the null twin")
    assert like.advice


def test_each_unit_is_compared_with_the_mean_of_the_twins_units():
    """Kernel 7 of a twin is nobody's counterpart, so its order must not matter."""
    for others in ((0, 0, 18, 18), (18, 0, 18, 0)):
        verdict = judge_one(twin(min_excess=2), normal(24, 22, 20, 0), twins={"layer": normal(*others)})
        assert (verdict.outcome, verdict.value, verdict.null) == (FAIL, -9, 9)
        assert verdict.units == UnitCounts(4, 1, 0)
        assert [kernel for kernel, *_ in verdict.worst] == [3]
    assert judge_one(twin(min_excess=2, share=0.75), normal(24, 22, 20, 0), twins={"layer": normal(9)}).outcome is PASS


def test_means_are_compared():
    rule = twin(min_excess=5, reduce="mean")
    verdict = judge_one(rule, normal(0, 40), twins={"layer": normal(10, 0)})
    assert (verdict.outcome, verdict.value, verdict.null) == (PASS, 15, 5)


def test_exact_values_are_compared_exactly():
    value, null = Exact(np.array([3.0])), Exact(np.array([1.0]))
    verdict = judge_one(twin(min_excess=2), value, twins={"layer": null})
    assert (verdict.outcome, verdict.low, verdict.high) == (PASS, 2, 2)
    assert judge_one(twin(min_excess=2.001), value, twins={"layer": null}).outcome is FAIL


def test_gates_are_those_of_both():
    def gate(statistic, *_):
        return Gate(
            np.array([300 if statistic.probe.network else 200]), "the twin has too few" * bool(statistic.probe.network)
        )

    verdict = judge_one(twin(min_excess=0), normal(99), twins={"layer": normal(0)}, gate=gate)
    assert (verdict.outcome, verdict.n_needed) == (UNDECIDED, 300)
    assert "the twin has too few" in verdict.detail


def test_an_undefined_twin_leaves_it_undecided():
    verdict = judge_one(twin(min_excess=0), normal(99), twins={"layer": normal(math.nan)})
    assert verdict.outcome is UNDECIDED
    assert verdict.detail.startswith("The value is 0 / 0")
    assert judge_one(twin(min=0), normal(99), twins={"layer": normal(math.nan)}).outcome is PASS


def test_a_twin_that_gives_nan_is_an_error_of_its_own():
    verdict = judge_one(twin(min=0), normal(99), twins={"layer": normal(0)}, twin_nonfinite=3)
    assert (verdict.outcome, verdict.detail) == (Outcome.ERROR, "The null twin gives NaN or Inf here.")
    both = judge_one(twin(min=0), normal(99), twins={"layer": normal(0)}, nonfinite=2, twin_nonfinite=3)
    assert both.detail == "2 of 1000 images give NaN or Inf here."


def test_images_needed_are_those_of_the_excess():
    verdict = judge_one(twin(min_excess=0), normal(2), twins={"layer": normal(1)}, images=100)
    # Two errors of z_.025 each, 3.92 wide, shrink to 1 with 3.92^2 times the images.
    assert verdict.n_needed == math.ceil(1.05 * 100 * (2 * stats.norm.ppf(0.975)) ** 2)


def test_false_passes_stay_within_the_level_on_the_bound():
    random = np.random.default_rng(3)
    passes = 0
    for _ in range(400):
        noise = random.normal(size=2)
        # Opposites, which is the worst dependence.
        verdict = judge_one(twin(min_excess=1), normal(1 + noise[0]), twins={"layer": normal(-noise[0])})
        passes += verdict.outcome is PASS
    assert 0 < passes <= stats.binom.ppf(0.99, 400, 0.05)
