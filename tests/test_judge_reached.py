"""The tightest bound that another audit of the same network would probably pass, too."""

import numpy as np
import pytest
from builders import judge_one, make_rule

from cnnaudit.intervals import Exact, Normal


def test_an_exact_value_is_the_bound_it_reached():
    assert judge_one(make_rule(max=0.9), Exact(np.array([0.25, 0.5]))).reached == 0.5


def test_what_is_reached_is_of_the_units_that_must_keep_the_bound():
    values = Exact(np.array([0.1, 0.2, 0.3, 0.4]))
    assert judge_one(make_rule(min=0.05, share=0.5), values).reached == 0.3
    assert judge_one(make_rule(max=0.9, share=0.5), values).reached == 0.2


@pytest.mark.parametrize("rule", [make_rule(max=0.2), make_rule(min=0.1, max=0.9)])
def test_nothing_is_reached_where_the_bound_is_not_passed_or_is_one_of_several(rule):
    assert judge_one(rule, Exact(np.array([0.5]))).reached is None


def test_another_audit_of_the_same_network_passes_the_bound_that_one_reached():
    """At 95 %, for the worst of units whose errors differ much, of which the surest is not the one farthest away."""
    draw = np.random.default_rng(0)
    truth, errors = np.array([1.0, 0.2, 0.8]), np.array([0.1, 0.001, 0.05])
    kept, runs = 0, 400
    for _ in range(runs):
        first, second = (Normal(truth + errors * draw.standard_normal(3), errors) for _ in range(2))
        reached = judge_one(make_rule(min=0.0), first).reached
        kept += judge_one(make_rule(min=reached), second).outcome == "pass"
    assert 0.93 <= kept / runs <= 0.975
