"""Random networks against the naive computation; ``benchmarks/naive.py`` does the same with a thousand."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from reference import naive
from reference.comparison import FIELDS, Tally, compare
from reference.networks import plans

from cnnaudit.metrics import registry

FIRST_LOOK = {name: metric for name, metric in registry().items() if metric.recommended}

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_statistic_of_random_networks_equals_a_naive_computation():
    tally = Tally()

    @settings(
        max_examples=50,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],  # each attempt at a smaller network would take a second
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(plans())
    def every_network(plan):
        compare(plan, tally)

    every_network()
    assert tally.networks >= 50
    assert set(tally.sites) == {"conv", "pool", "residual", "concat", "gate", "head"}
    assert {metric.reads.__name__ for metric in FIRST_LOOK.values()} | {"tap", *FIELDS} == set(tally.compared)
    assert min(tally.compared.values()) > 100, tally.compared
    assert sum(tally.close.values()) < 0.2 * tally.compared["ClassHistogram"], tally.close


def test_every_field_of_a_first_look_is_compared():
    """But some of which tests/metrics have naive computations."""
    elsewhere = {"always_on", "rate", "retained", "skip_standardised", "cosine", "mean_shift"}
    assert {name: set(metric.fields) - elsewhere for name, metric in FIRST_LOOK.items()} == {
        name: set(fields) for name, fields in FIELDS.items()
    }


def test_the_naive_computation_knows_some_answers_that_need_no_computation():
    assert naive.entropy([1, 1, 1, 1]) == 2
    assert naive.entropy([3, 3], "miller_madow") == pytest.approx(1 + 1 / (12 * 0.6931471805599453))
    # Of two rows and two columns of one each, half of the tables tell everything and half nothing less.
    assert naive.expected_information([1, 1], [1, 1]) == pytest.approx(1)
    assert naive.grid(torch.arange(8.0).numpy() + 1, 4).tolist() == [2.5, 4.5, 6.5]
    rectified = naive.grid(torch.tensor([0.0, 0, 1, 2, 3, 4]).numpy(), 3)
    assert 0 < rectified[0] < 1e-300
    assert rectified[1] == 2.5
