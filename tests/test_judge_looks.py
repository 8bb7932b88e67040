"""Several looks at growing data: alpha is spent once, and a verdict stands from the look that decides it."""

import numpy as np
import pytest
from builders import judge_one, judged, make_rule, make_site, make_spec
from scipy import stats

from cnnaudit.intervals import Exact, Normal
from cnnaudit.judge import decide, family_wise_error
from cnnaudit.looks import LAST, Look, schedule
from cnnaudit.metrics import registry
from cnnaudit.plan import Check, Plan
from cnnaudit.result import Outcome
from cnnaudit.statistics import ActivityTally, Probe

PASS, FAIL, UNDECIDED = Outcome.PASS, Outcome.FAIL, Outcome.UNDECIDED
FIRST, SECOND, THIRD = schedule(1200, block=16)


def at_least(bound=0.0, **facts):
    return make_rule(min=bound, **facts)


class Settled(Normal):
    """Whose error is that of whole sources already."""

    def regrouped(self, parts, sizes, units):
        return self


def z(p):
    """A value whose one-sided p-value of being at most 0 is p."""
    return Settled(np.array([stats.norm.isf(p)]), np.ones(1))


# alpha .05: .0125 at each of the first two looks, .025 at the last.
@pytest.mark.parametrize(
    ("look", "p", "outcome"),
    [
        (FIRST, 0.0124, PASS),
        (FIRST, 0.0126, UNDECIDED),
        (SECOND, 0.0124, PASS),
        (SECOND, 0.0126, UNDECIDED),
        (THIRD, 0.0249, PASS),
        (THIRD, 0.0251, UNDECIDED),
        (LAST, 0.0499, PASS),
        (LAST, 0.0501, UNDECIDED),
        (FIRST, 1 - 0.0124, FAIL),
        (FIRST, 1 - 0.0126, UNDECIDED),
        (THIRD, 1 - 0.0249, FAIL),
        (THIRD, 1 - 0.0251, UNDECIDED),
    ],
)
def test_each_look_spends_its_part_of_alpha(look, p, outcome):
    verdict = judge_one(at_least(), z(p), look=look)
    assert verdict.outcome is outcome
    assert verdict.look == look.number


def test_a_verdict_stands_from_the_first_look_that_decides_it():
    rule = at_least()
    early = judged(rule, {"a": z(0.001), "b": z(0.3), "c": z(0.9999)}, look=FIRST, images=304)
    assert [v.outcome for v in early] == [PASS, UNDECIDED, FAIL]
    late = judged(rule, {"a": z(0.99999), "b": z(0.001), "c": z(0.0)}, look=SECOND, images=608, earlier=early)
    assert [v.outcome for v in late] == [PASS, PASS, FAIL]
    assert [v.look for v in late] == [1, 2, 1]
    assert [v.n_images for v in late] == [304, 608, 304]
    assert late[0] == early[0]


def test_what_was_an_error_or_undecided_is_looked_at_again():
    rule = at_least()
    early = judged(rule, {"a": z(0.001)}, nonfinite=3, look=FIRST)
    assert early[0].outcome is Outcome.ERROR
    (late,) = judged(rule, {"a": z(0.001)}, nonfinite=3, look=THIRD, earlier=early)
    assert late.outcome is Outcome.ERROR
    assert late.look == 3


def test_a_claim_about_the_data_set_waits_for_all_of_it():
    rule = at_least(0.5, estimand="dataset")
    early = judge_one(rule, Exact(np.array([0.7])), look=FIRST)
    assert early.outcome is UNDECIDED
    late = judge_one(rule, Exact(np.array([0.4])), look=THIRD, earlier=(early,))
    assert late.outcome is FAIL


def walk(runs, looks, rng):
    """Means of standard normal values at each look, of many runs; shape (runs, looks)."""
    counts = np.diff([0, *(look.images for look in looks)])
    sums = rng.normal(size=(runs, len(looks))) * np.sqrt(counts)
    return sums.cumsum(1) / np.cumsum(counts)


def wrongly(outcome, rule, looks, runs=1000, seed=0):
    """How often a truth on the bound is decided so, at any look."""
    count = 0
    for means in walk(runs, looks, np.random.default_rng(seed)):
        verdicts = ()
        for look, mean in zip(looks, means, strict=True):
            found = Normal(np.array([mean]), np.array([1 / np.sqrt(look.images)]))
            verdicts = judged(rule, {"layer": found}, images=look.images, look=look, earlier=verdicts)
        count += verdicts[0].outcome is outcome
    return count


@pytest.mark.parametrize("outcome", [PASS, FAIL])
def test_looking_eight_times_errs_in_at_most_5_percent(outcome):
    looks = schedule(50_000, block=16)
    assert len(looks) == 8
    assert wrongly(outcome, at_least(), looks) <= stats.binom.ppf(0.99, 1000, 0.05)


def test_naive_looking_errs_more_often():
    naive = [Look(look.number, look.images, 1.0, look.last) for look in schedule(50_000, block=16)]
    assert wrongly(PASS, at_least(), naive) > stats.binom.ppf(0.9999, 1000, 0.05)


# --- sources ----------------------------------------------------------------------------------------------------


def test_sources_are_what_a_metric_counts():
    enough = judge_one(at_least(), z(0.001), images=1000, sources=100, need=lambda need: 100)
    assert enough.outcome is PASS
    assert (enough.n_images, enough.n_sources) == (1000, 100)
    few = judge_one(at_least(), z(0.001), images=1000, sources=99, need=lambda need: 100)
    assert few.outcome is UNDECIDED
    assert few.n_needed == 100
    assert few.advice == "Audit at least 100 sources."


def test_the_number_needed_is_one_of_sources():
    verdict = judge_one(at_least(), Settled(np.array([1.0]), np.array([1.0])), images=5000, sources=40)
    # The interval must shrink by 1.645, so 2.71 times the sources, and 5 % on top.
    assert verdict.n_needed == int(np.ceil(1.05 * 40 * stats.norm.ppf(0.95) ** 2))
    assert verdict.advice.startswith(f"Audit about {verdict.n_needed} sources, or move the bound")


# --- the whole file -----------------------------------------------------------------------------------------------


def test_family_wise_error():
    metric = registry()["activity"]
    site = make_site()
    probe = Probe(ActivityTally, site, ("response",))

    def of(*fields, confidence=0.95):
        rules = [make_rule("activity", field, id=f"{i}", max=0.5) for i, field in enumerate(fields)]
        checks = tuple(Check(rule, metric, site, probe) for rule in rules for _ in range(3))
        return family_wise_error(Plan(checks, (), (probe,), 1, 0), make_spec(*rules, confidence=confidence))

    assert of("apoz", "dormant") == pytest.approx({"false_fail": 0.1, "false_pass": 0.05})
    # "Never active on these images" is no claim that sampling can make wrong.
    assert of("dead") == {"false_fail": 0.0, "false_pass": 0.0}
    assert of("dead", "apoz", confidence=0.99) == pytest.approx({"false_fail": 0.01, "false_pass": 0.01})
    assert of(*["apoz"] * 30) == pytest.approx({"false_fail": 1.0, "false_pass": 0.05})


def test_a_rule_that_selects_nothing_cannot_be_misled():
    rule = make_rule(max=0.5)
    plan = Plan((), ((rule, "nothing"),), (), 1, 0)
    assert family_wise_error(plan, make_spec(rule)) == {"false_fail": 0.0, "false_pass": 0.0}
    assert decide(plan, {}, make_spec(rule), classes=0)[0].outcome is Outcome.ERROR
