import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from builders import judge_one, judged, make_rule, make_site, make_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cnnaudit import MetricError
from cnnaudit.intervals import Exact, Normal, Uncertain
from cnnaudit.judge import decide
from cnnaudit.metrics import Gate, registry
from cnnaudit.plan import Check, Plan
from cnnaudit.result import Outcome, Report
from cnnaudit.statistics import Probe, View

PASS, FAIL, UNDECIDED = Outcome.PASS, Outcome.FAIL, Outcome.UNDECIDED


@dataclass(frozen=True)
class Given(Uncertain):
    """Units whose p-values are given: of "it violates its minimum" and of "it keeps it"."""

    violates: tuple[float, ...] = ()
    keeps: tuple[float, ...] = ()

    @property
    def value(self):
        return -np.arange(float(max(len(self.violates), len(self.keeps))))

    def _all(self, p):
        return np.array(p) if p else np.ones(len(self.value))

    def interval(self, confidence):
        return self.value - 1, self.value + 1

    def p_at_most(self, bound):
        return self._all(self.violates)

    def p_at_least(self, bound):
        return self._all(self.keeps)

    def p_above(self, bound):
        raise AssertionError("only a minimum is judged here")

    def mean(self):
        raise AssertionError("only units are judged here")


def at_least(bound=0.0, **facts):
    return make_rule(min=bound, **facts)


def normal(*values, error=1.0, **facts):
    return Normal(np.array(values, dtype=float), np.full(len(values), error), **facts)


def false_alarms(count, runs, alpha=0.05):
    """Whether a rate of at most alpha is compatible with a count, at 99 %."""
    return count <= stats.binom.ppf(0.99, runs, alpha)


# --- partial conjunction by hand: four units, alpha .05 ---------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "violates", "outcome"),
    [
        # Every unit must keep: each at .05, no correction.
        (1.0, (0.049, 0.049, 0.049, 0.049), PASS),
        (1.0, (0.0, 0.0, 0.0, 0.051), UNDECIDED),
        # Three of four: the third smallest at .05 / 2.
        (0.75, (0.024, 0.024, 0.024, 1.0), PASS),
        (0.75, (0.0, 0.0, 0.026, 1.0), UNDECIDED),
        (0.75, (0.026, 0.026, 0.026, 0.026), UNDECIDED),
        (0.7, (0.024, 0.024, 0.024, 1.0), PASS),  # 2.8 units are three
        # Two of four: the second smallest at .05 / 3.
        (0.5, (0.016, 0.016, 1.0, 1.0), PASS),
        (0.5, (0.0, 0.017, 1.0, 1.0), UNDECIDED),
        # One of four: the smallest at .05 / 4.
        (0.25, (0.012, 1.0, 1.0, 1.0), PASS),
        (0.01, (0.012, 1.0, 1.0, 1.0), PASS),  # never fewer than one
        (0.25, (0.013, 0.013, 0.013, 0.013), UNDECIDED),
    ],
)
def test_passing(share, violates, outcome):
    assert judge_one(at_least(share=share), Given(violates=violates)).outcome is outcome


@pytest.mark.parametrize(
    ("share", "keeps", "outcome"),
    [
        # One violation breaks "every": the smallest at .05 / 4.
        (1.0, (1.0, 0.012, 1.0, 1.0), FAIL),
        (1.0, (0.013, 0.013, 0.013, 0.013), UNDECIDED),
        # Two violations break "three of four": the second smallest at .05 / 3.
        (0.75, (0.016, 1.0, 0.016, 1.0), FAIL),
        (0.75, (0.0, 0.017, 1.0, 1.0), UNDECIDED),
        # Three break "two of four": the third smallest at .05 / 2.
        (0.5, (0.024, 0.024, 0.024, 1.0), FAIL),
        (0.5, (0.0, 0.0, 0.026, 1.0), UNDECIDED),
        # Four break "one of four": the largest at .05.
        (0.25, (0.049, 0.049, 0.049, 0.049), FAIL),
        (0.25, (0.0, 0.0, 0.0, 0.051), UNDECIDED),
    ],
)
def test_failing(share, keeps, outcome):
    assert judge_one(at_least(share=share), Given(keeps=keeps)).outcome is outcome


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    p=st.lists(st.tuples(st.sampled_from([0.0, 1e-3, 0.01, 0.04, 0.06, 1.0]), st.booleans()), min_size=1, max_size=9),
    share=st.sampled_from([0.1, 0.5, 0.8, 0.9, 1.0]),
    sites=st.integers(1, 3),
)
def test_decisions_are_those_of_benjamini_and_heller(p, share, sites):
    """Whichever of its two claims a unit's p-value speaks against."""
    m = len(p)
    u = math.ceil(share * m - 1e-9)
    violates = tuple(value if passing else 1.0 for value, passing in p)
    keeps = tuple(1.0 if passing else value for value, passing in p)
    passes = sorted(violates)[u - 1] * (m - u + 1) <= 0.05
    fails = sorted(keeps)[m - u] * u * sites <= 0.05
    found = judged(at_least(share=share), {f"layer{i}": Given(violates, keeps) for i in range(sites)})
    expected = FAIL if fails else PASS if passes else UNDECIDED
    assert [v.outcome for v in found] == [expected] * sites


def test_confidence_is_the_specs():
    rule = at_least()
    value = Given(violates=(0.03,), keeps=(1.0,))
    assert judge_one(rule, value).outcome is PASS
    assert judge_one(rule, value, spec=make_spec(rule, confidence=0.99)).outcome is UNDECIDED


def test_several_sites_share_the_level_of_a_failure_but_not_that_of_a_pass():
    one = Given(violates=(1.0,), keeps=(0.02,))
    assert [v.outcome for v in judged(at_least(), {"a": one})] == [FAIL]
    assert [v.outcome for v in judged(at_least(), {"a": one, "b": one})] == [FAIL, FAIL]
    # Three sites: .02 * 3 > .05.
    assert [v.outcome for v in judged(at_least(), {"a": one, "b": one, "c": one})] == [UNDECIDED] * 3
    # A site where the metric does not apply costs no level.
    found = judged(at_least(), {"a": one, "b": one, "c": "no meaning here"})
    assert [v.outcome for v in found] == [FAIL, FAIL, Outcome.NOT_APPLICABLE]
    passing = Given(violates=(0.04,), keeps=(1.0,))
    assert [v.outcome for v in judged(at_least(), dict.fromkeys("abcdef", passing))] == [PASS] * 6


# --- do the levels hold? ----------------------------------------------------------------------------------------


def rate_of(outcome, draw, rule, runs=600):
    generator = np.random.default_rng(0)
    return sum(judge_one(rule, draw(generator)).outcome is outcome for _ in range(runs)), runs


def test_one_unit_of_300_on_the_bound_is_passed_in_at_most_5_percent():
    def draw(generator):
        truth = np.full(300, 8.0)
        truth[17] = 0.0
        return normal(*(truth + generator.normal(size=300)))

    passes, runs = rate_of(PASS, draw, at_least())
    assert false_alarms(passes, runs)
    assert passes >= stats.binom.ppf(0.01, runs, 0.05)  # and not far fewer: no correction is made where none is needed


def test_300_units_on_the_bound_are_failed_in_at_most_5_percent():
    fails, runs = rate_of(FAIL, lambda g: normal(*g.normal(size=300)), at_least())
    assert false_alarms(fails, runs)
    assert fails >= stats.binom.ppf(0.01, runs, 1 - (1 - 0.05 / 300) ** 300)


def test_300_fully_dependent_units_are_failed_in_at_most_5_percent():
    fails, runs = rate_of(FAIL, lambda g: normal(*np.full(300, g.normal())), at_least())
    assert false_alarms(fails, runs)


@pytest.mark.parametrize("share", [0.9, 0.5])
def test_a_share_at_its_bound_is_neither_passed_nor_failed_too_often(share):
    """Of 40 units one too few keeps (false PASS), or just enough do (false FAIL); the rest lie on the bound."""
    must = math.ceil(40 * share)

    def draw(keeping):
        def drawn(generator):
            truth = np.zeros(40)
            truth[:keeping] = 8.0
            return normal(*(truth + generator.normal(size=40)))

        return drawn

    assert false_alarms(*rate_of(PASS, draw(must - 1), at_least(share=share)))

    def violating(generator):
        truth = np.zeros(40)
        truth[must:] = -8.0
        return normal(*(truth + generator.normal(size=40)))

    assert false_alarms(*rate_of(FAIL, violating, at_least(share=share)))


def test_a_rule_at_several_sites_fails_wrongly_in_at_most_5_percent():
    generator = np.random.default_rng(1)
    runs, fails = 300, 0
    for _ in range(runs):
        found = judged(at_least(), {f"layer{i}": normal(*generator.normal(size=10)) for i in range(8)})
        fails += any(v.outcome is FAIL for v in found)
    assert false_alarms(fails, runs)


def test_clear_cases_are_decided():
    assert judge_one(at_least(), normal(*[9.0] * 300)).outcome is PASS
    assert judge_one(at_least(), normal(*[9.0] * 299, -9.0)).outcome is FAIL
    assert judge_one(at_least(share=0.99), normal(*[9.0] * 299, -9.0)).outcome is PASS


# --- bounds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "outcome", "bound", "side"),
    [
        (5.0, PASS, None, None),
        (1.0, UNDECIDED, 0.0, "min"),
        (9.5, UNDECIDED, 10.0, "max"),
        (-3.0, FAIL, 0.0, "min"),
        (14.0, FAIL, 10.0, "max"),
        # A failure may be of either bound, so each has half the level: z = 1.96 instead of 1.645.
        (-1.95, UNDECIDED, 0.0, "min"),
        (-1.97, FAIL, 0.0, "min"),
        (11.97, FAIL, 10.0, "max"),
        # To keep both needs each at the whole level.
        (1.65, PASS, 0.0, "min"),
        (8.35, PASS, 10.0, "max"),
        (8.4, UNDECIDED, 10.0, "max"),
    ],
)
def test_two_bounds(value, outcome, bound, side):
    verdict = judge_one(make_rule(min=0.0, max=10.0), normal(value))
    assert verdict.outcome is outcome
    if side:
        assert (verdict.bound, verdict.side) == (bound, side)


@pytest.mark.parametrize(("value", "outcome"), [(0.4, PASS), (0.5, PASS), (0.50001, FAIL)])
def test_what_is_known_exactly_is_decided_and_keeps_a_bound_that_it_lies_on(value, outcome):
    assert judge_one(make_rule(max=0.5), Exact(np.array([value]))).outcome is outcome
    assert judge_one(make_rule(min=-0.5), Exact(np.array([-value]))).outcome is outcome


def test_a_claim_about_the_data_set_has_no_sampling_error():
    near = normal(0.1, 0.2)
    assert judge_one(at_least(), near).outcome is UNDECIDED
    assert judge_one(at_least(estimand="dataset"), near).outcome is PASS
    assert judge_one(at_least(), near, dataset=True).outcome is PASS  # the field's own default
    assert judge_one(at_least(estimand="population"), near, dataset=True).outcome is UNDECIDED


# --- what a verdict says ----------------------------------------------------------------------------------------


def test_a_failure_shows_the_worst_units_first_and_counts_them():
    verdict = judge_one(at_least(), normal(9, -5, 0.5, -7, 9, 9))
    assert verdict.outcome is FAIL
    assert (verdict.value, verdict.bound, verdict.side) == (-7, 0, "min")
    assert (verdict.low, verdict.high) == pytest.approx((-7 - 1.95996, -7 + 1.95996), abs=1e-5)
    assert (verdict.units.total, verdict.units.failing, verdict.units.undecided) == (6, 2, 1)
    assert [row[0] for row in verdict.worst] == [3, 1, 2]
    assert verdict.worst[1][1:] == pytest.approx((-5, -5 - 1.95996, -5 + 1.95996), abs=1e-5)


def test_at_most_five_units_are_listed():
    verdict = judge_one(at_least(), normal(*[-9.0] * 12, 9.0))
    assert len(verdict.worst) == 5
    assert (verdict.units.total, verdict.units.failing, verdict.units.undecided) == (13, 12, 0)


def test_a_pass_shows_the_unit_that_it_hangs_on():
    verdict = judge_one(at_least(), normal(9, 4, 6))
    assert (verdict.outcome, verdict.value) == (PASS, 4)
    assert (verdict.units.failing, verdict.units.undecided) == (0, 0)
    # Of three units two must keep: the second best decides.
    assert judge_one(at_least(share=0.6), normal(9, -4, 6)).value == 6


def test_verdicts_carry_the_rule_and_its_site():
    rule = at_least(id="own-name", severity="warning", refs=("R1",), line=12, why="so")
    verdict = judge_one(rule, normal(3.0), images=77)
    assert (verdict.rule, verdict.line, verdict.severity, verdict.refs, verdict.why) == (
        "own-name", 12, "warning", ("R1",), "so",
    )  # fmt: skip
    assert (verdict.metric, verdict.field, verdict.unit) == ("made_up", "value", "bits")
    assert (verdict.op, verdict.site, verdict.n_images) == ("conv", "layer", 77)


@pytest.mark.parametrize("value", [1.0, 0.3, -1.2])
@pytest.mark.parametrize("units", [1, 20])
def test_as_many_images_as_it_asks_for_decide(value, units):
    """If the values stay and errors shrink with the root of their number."""
    values = [value, *[30.0] * (units - 1)]
    verdict = judge_one(at_least(), normal(*values), images=400)
    assert verdict.outcome is UNDECIDED
    assert verdict.n_needed > 400
    enough = normal(*values, error=math.sqrt(400 / verdict.n_needed))
    assert judge_one(at_least(), enough, images=verdict.n_needed).outcome is (PASS if value > 0 else FAIL)
    # And not many fewer would.
    few = normal(*values, error=math.sqrt(400 / (0.9 * verdict.n_needed)))
    assert judge_one(at_least(), few).outcome is UNDECIDED


def test_no_number_of_images_decides_a_value_on_the_bound():
    assert judge_one(at_least(), normal(0.0)).n_needed == 0
    assert judge_one(at_least(), normal(1.0, error=math.inf)).n_needed == 0


def test_decided_verdicts_need_no_images():
    assert judge_one(at_least(), normal(9.0)).n_needed == 0
    assert judge_one(at_least(), normal(-9.0)).n_needed == 0


# --- mean of the units ------------------------------------------------------------------------------------------


def test_the_mean_of_units_is_one_quantity():
    rule = at_least(1.0, reduce="mean")
    verdict = judge_one(rule, normal(-5, 7, 10, error=0.5))
    assert (verdict.outcome, verdict.value) == (PASS, 4)
    assert (verdict.low, verdict.high) == pytest.approx((4 - 0.97998, 4 + 0.97998), abs=1e-5)
    assert (verdict.units.total, verdict.reduce) == (1, "mean")
    assert judge_one(rule, normal(-5, 2, 2, error=0.5)).outcome is FAIL
    assert judge_one(rule, normal(0, 1, 2, error=0.5)).outcome is UNDECIDED
    # Being one quantity, it is not corrected for its units.
    assert judge_one(rule, normal(*[1 - 0.85] * 300, error=0.5)).outcome is FAIL


def test_a_mean_is_not_a_share():
    assert judge_one(at_least(1.0, reduce="mean", share=1.0), normal(-50, 100, error=0.1)).outcome is PASS
    assert judge_one(at_least(1.0), normal(-50, 100, error=0.1)).outcome is FAIL


# --- what stays open --------------------------------------------------------------------------------------------


def gated(*needed):
    return lambda statistic, site, field, params: Gate(np.array(needed, dtype=np.int64), "too few windows")


def test_a_gated_unit_is_neither_passed_nor_failed():
    clear = normal(9, -9, 9)
    assert judge_one(at_least(), clear).outcome is FAIL
    verdict = judge_one(at_least(), clear, gate=gated(0, 250, 0))
    assert verdict.outcome is UNDECIDED
    assert verdict.n_needed == 250
    assert (verdict.units.failing, verdict.units.undecided) == (0, 1)
    # The others may still break the rule, or keep a share of it.
    assert judge_one(at_least(), normal(9, -9, -9), gate=gated(0, 250, 0)).outcome is FAIL
    assert judge_one(at_least(share=0.6), clear, gate=gated(0, 250, 0)).outcome is PASS
    assert judge_one(at_least(), clear, gate=gated(0, 0, 0)).outcome is FAIL


def test_a_gate_closes_the_mean_too():
    rule = at_least(reduce="mean")
    assert judge_one(rule, normal(9, 9), gate=gated(0, 0)).outcome is PASS
    verdict = judge_one(rule, normal(9, 9), gate=gated(0, 70))
    assert (verdict.outcome, verdict.n_needed) == (UNDECIDED, 70)


def test_a_metric_that_needs_more_images_is_not_judged_before():
    facts = {"need": lambda need: 10 * need.classes, "classes": 10}
    early = judge_one(at_least(), normal(9, 9), images=99, **facts)
    assert (early.outcome, early.n_needed) == (UNDECIDED, 100)
    assert judge_one(at_least(), normal(9, 9), images=100, **facts).outcome is PASS
    assert judge_one(at_least(), normal(-9, 9), images=99, **facts).outcome is UNDECIDED
    # Of the images that were read there are always enough.
    assert judge_one(at_least(estimand="dataset"), normal(9, 9), images=5, **facts).outcome is PASS


def test_kernels_that_memory_did_not_reach_for_are_open():
    """4 of 10 kernels were read."""
    facts = {"site_units": 10, "kernels": (1, 4, 5, 8)}
    verdict = judge_one(at_least(), normal(9, 9, 9, 9), **facts)
    assert verdict.outcome is UNDECIDED
    assert (verdict.units.total, verdict.units.failing, verdict.units.undecided) == (10, 0, 6)
    assert verdict.n_needed == 0  # images do not help
    # One clear violation is one, whatever the others are.
    failing = judge_one(at_least(), normal(9, 9, -9, 9), **facts)
    assert failing.outcome is FAIL
    assert failing.worst[0][0] == 5  # the kernel's own number
    # Enough of them keep for a share of all ten.
    assert judge_one(at_least(share=0.4), normal(9, 9, 9, 9), **facts).outcome is PASS
    assert judge_one(at_least(share=0.5), normal(9, 9, 9, 9), **facts).outcome is UNDECIDED


def test_the_mean_of_sampled_kernels_has_the_error_of_the_sample():
    rule = at_least(reduce="mean")
    values = np.array([1.0, 3.0, 5.0, 7.0])
    verdict = judge_one(rule, Normal(values, np.full(4, 0.5)), site_units=10, kernels=(1, 4, 5, 8))
    sample = values.var(ddof=1) / 4 * (1 - 4 / 10)
    whole = 0.5**2 + sample
    assert verdict.value == 4
    # Four kernels tell with three degrees of freedom how much kernels differ (Satterthwaite).
    dof = 3 * (whole / sample) ** 2
    assert verdict.high == pytest.approx(4 + stats.t.ppf(0.975, dof) * math.sqrt(whole))
    assert verdict.units.undecided == 0
    every = judge_one(rule, Normal(values, np.full(4, 0.5)))
    assert every.high == pytest.approx(4 + 1.959964 * 0.5)


def test_the_mean_of_sampled_kernels_near_a_limit_keeps_its_error():
    rule = make_rule(max=0.01, reduce="mean")
    near_zero = normal(*[0.001] * 4, error=0.01, limits=(0, 1))
    verdict = judge_one(rule, near_zero, site_units=10, kernels=(1, 4, 5, 8))
    assert verdict.high == pytest.approx(0.001 + 1.959964 * 0.01)


def test_a_value_that_does_not_exist_is_open():
    verdict = judge_one(at_least(), normal(9, math.nan, 9))
    assert verdict.outcome is UNDECIDED
    assert math.isnan(verdict.value)
    assert (verdict.units.failing, verdict.units.undecided) == (0, 1)
    assert judge_one(at_least(share=0.6), normal(9, math.nan, 9)).outcome is PASS
    assert judge_one(at_least(), normal(9, math.nan, -9)).outcome is FAIL
    assert judge_one(at_least(reduce="mean"), normal(9, math.nan)).outcome is UNDECIDED
    assert judge_one(at_least(estimand="dataset"), normal(9, math.nan)).outcome is UNDECIDED


def test_a_value_that_does_not_exist_is_open_whatever_its_p_values():
    @dataclass(frozen=True)
    class Careless(Given):
        value = np.array([math.nan, 1.0])

    assert judge_one(at_least(), Careless(violates=(0.0, 0.0))).outcome is UNDECIDED
    assert judge_one(at_least(), Careless(keeps=(0.0, 1.0))).outcome is UNDECIDED


# --- what cannot be judged --------------------------------------------------------------------------------------


def test_images_with_nan_or_inf_are_an_error_however_good_the_value():
    verdict = judge_one(at_least(), normal(9, 9), nonfinite=3, images=40)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.value is None
    assert "3 of 40" in verdict.detail


def test_a_metric_that_crashes_is_an_error_at_its_site_only():
    found = judged(at_least(), {"a": normal(9.0), "b": ZeroDivisionError("by nothing"), "c": normal(9.0)})
    assert [v.outcome for v in found] == [PASS, Outcome.ERROR, PASS]
    assert "ZeroDivisionError: by nothing" in found[1].detail
    assert found[1].site == "b"


def test_a_wrong_question_is_no_verdict():
    with pytest.raises(MetricError, match="not here"):
        judged(at_least(), {"a": MetricError("not here")})


def absent(rule, message="at: 'nowhere' matches no conv site"):
    return decide(Plan((), ((rule, message),), (), 1, 0), {}, make_spec(rule), classes=2)


def test_a_rule_that_selects_nothing():
    (verdict,) = absent(at_least())
    assert verdict.outcome is Outcome.ERROR
    assert verdict.site == ""
    assert "'nowhere'" in verdict.detail
    (skipped,) = absent(at_least(if_absent="skip"))
    assert skipped.outcome is Outcome.NOT_APPLICABLE


def test_a_rule_that_applies_nowhere_is_an_error():
    reasons = {"a": "no zeros here", "b": "no zeros there"}
    found = judged(at_least(), reasons)
    assert [v.outcome for v in found] == [Outcome.NOT_APPLICABLE] * 2 + [Outcome.ERROR]
    assert [v.site for v in found] == ["a", "b", ""]
    assert "no zeros here" in found[0].detail
    found = judged(at_least(if_absent="skip"), reasons)
    assert [v.outcome for v in found] == [Outcome.NOT_APPLICABLE] * 2
    found = judged(at_least(), reasons | {"c": normal(9.0)})
    assert [v.outcome for v in found] == [Outcome.NOT_APPLICABLE] * 2 + [PASS]


def test_rules_are_decided_in_the_order_of_the_file():
    first, second = at_least(id="first"), at_least(id="second")
    plan = Plan((), ((second, "nothing"), (first, "nothing")), (), 1, 0)
    assert [v.rule for v in decide(plan, {}, make_spec(first, second), classes=2)] == ["first", "second"]


# --- to the exit code -------------------------------------------------------------------------------------------


def exit_code(*verdicts, undecided="fail"):
    flat = tuple(v for group in verdicts for v in group)
    return Report(spec={}, model={}, data={}, settings={"undecided": undecided}, verdicts=flat).exit_code


def test_precedence_of_exit_codes():
    passing = judged(at_least(), {"a": normal(9.0)})
    failing = judged(at_least(), {"a": normal(-9.0)})
    open_ = judged(at_least(), {"a": normal(0.1)})
    broken = judged(at_least(), {"a": normal(9.0)}, nonfinite=1)
    assert exit_code(passing) == 0
    assert exit_code(passing, open_) == 3
    assert exit_code(passing, open_, failing) == 1
    assert exit_code(passing, open_, failing, broken) == 2
    assert exit_code(passing, absent(at_least())) == 2
    assert exit_code(passing, absent(at_least(if_absent="skip"))) == 0
    assert exit_code(passing, open_, undecided="pass") == 0
    assert exit_code(open_, failing, undecided="pass") == 1
    assert exit_code(judged(at_least(severity="warning"), {"a": normal(-9.0)})) == 0
    assert exit_code(judged(at_least(severity="note"), {"a": normal(0.1)})) == 0


# --- with a real metric: how many silent images kill 64 kernels -------------------------------------------------


@pytest.mark.parametrize(
    ("kernels", "images", "outcome"),
    [(1, 298, UNDECIDED), (1, 299, FAIL), (64, 711, UNDECIDED), (64, 712, FAIL)],
)
def test_dead_kernels_of_the_population(kernels, images, outcome):
    metric = registry()["activity"]
    rule = make_rule("activity", "dead", max=0.0, params={"rate": 0.01}, estimand="population")
    site = make_site(units=kernels, shape=())
    probe = Probe(metric.reads, site, metric.taps)
    statistic = metric.reads(probe, 1)
    silent = torch.zeros(images, kernels)
    statistic.fold(
        statistic.read(View({"response": silent}, torch.arange(images), None, 0)),
        torch.zeros(images, dtype=torch.int64),
    )
    plan = Plan((Check(rule, metric, site, probe),), (), (probe,), 1, 0)
    (verdict,) = decide(plan, {probe: statistic}, make_spec(rule), classes=2)
    assert verdict.outcome is outcome


@pytest.mark.parametrize("reduce", ["every", "mean"])
@pytest.mark.parametrize("bound", [{"min": 1.0}, {"min": 10.0}, {"max": 1.0}])
def test_a_value_of_the_whole_layer_is_not_judged_on_some_of_its_kernels(bound, reduce):
    """Two of four kernels were read: their dimension is neither enough nor too little for the layer's."""
    rule = make_rule(reduce=reduce, **bound)
    verdict = judge_one(rule, Exact(np.array([5.0])), kernels=(0, 3), site_units=4, together=True)
    assert verdict.outcome is Outcome.UNDECIDED
    assert verdict.detail == "Memory reached for 2 of 4 kernels, and the rule speaks of all."
    assert verdict.advice == "Raise sampling.max_memory or narrow `at:`."
    whole = judge_one(rule, Exact(np.array([5.0])), site_units=4, together=True)
    assert whole.outcome is (Outcome.PASS if bound == {"min": 1.0} else Outcome.FAIL)


def test_where_a_metric_does_not_apply_nobody_asks_how_many_images_it_takes():
    def need(need):
        raise ZeroDivisionError

    (verdict,) = judged(make_rule(min=0, if_absent="skip"), {"layer": "it has no patches"}, need=need)
    assert verdict.outcome is Outcome.NOT_APPLICABLE
