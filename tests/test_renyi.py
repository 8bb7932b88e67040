"""The matrix functional by itself: closed forms, laws, and what the width rules do."""

import math

import numpy as np
import pytest
import torch

from cnnaudit.renyi import entropy, gram, information, joint

RULES = ("dimension", "median", "silverman")


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pair(kappa):
    """Two images with this kernel value."""
    return torch.tensor([[1, kappa], [kappa, 1]], dtype=torch.float64) / 2


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1, 1.01, 2])
def test_images_that_are_all_alike_have_none(alpha):
    assert float(entropy(torch.ones(16, 16, dtype=torch.float64) / 16, alpha)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 1, 1.01, 2])
def test_images_that_are_all_unlike_have_log2_of_their_number(alpha):
    assert float(entropy(torch.eye(16, dtype=torch.float64) / 16, alpha)) == pytest.approx(4)


@pytest.mark.parametrize("alpha", [0.5, 1, 1.01, 2])
def test_equal_blocks_have_log2_of_their_number(alpha):
    blocks = torch.block_diag(*[torch.ones(4, 4, dtype=torch.float64)] * 8) / 32
    assert float(entropy(blocks, alpha)) == pytest.approx(3)


@pytest.mark.parametrize(("alpha", "expected"), [(2, 0.548059), (1, 0.715349), (1.01, 0.713099)])
def test_two_images(alpha, expected):
    assert float(entropy(pair(math.exp(-0.5)), alpha)) == pytest.approx(expected, abs=1e-6)


def test_ten_images_half_alike():
    a = (torch.eye(10, dtype=torch.float64) + 1) / 20
    assert float(entropy(a, 2)) == pytest.approx(1.621488, abs=1e-6)


def test_information_about_itself_is_not_the_entropy():
    a = pair(math.exp(-0.5))
    assert float(information(a, a, 1.01)) == pytest.approx(0.5271, abs=1e-4)
    assert float(entropy(a, 1.01)) == pytest.approx(0.7131, abs=1e-4)


def test_information_where_nothing_or_everything_is_told_apart():
    a, alike, unlike = pair(0.3), pair(1.0), pair(0.0)
    assert float(information(a, alike, 1.01)) == pytest.approx(0, abs=1e-12)
    # Saturated: whatever the second variable is, its whole entropy counts.
    assert float(information(unlike, a, 1.01)) == pytest.approx(float(entropy(a, 1.01)))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("silverman", {1: 0.98, 10: 3.88, 100: 7.97, 1000: 8.0}),
        ("dimension", {1: 3.01, 10: 6.17, 100: 5.92, 1000: 5.93}),
        ("median", {1: 1.61, 10: 2.80, 100: 3.70, 1000: 4.00}),
    ],
)
def test_entropy_of_normal_data_by_dimension(rule, expected):
    """256 samples, so at most 8 bits: silverman saturates in wide layers."""
    for features, bits in expected.items():
        found = entropy(gram(normal(3, 256, features), rule), 1.01)
        assert float(found.mean()) == pytest.approx(bits, abs=0.08)


# --- against a loop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_gram_matrix_is_that_of_a_loop(rule):
    x = normal(12, 5, seed=3) * torch.tensor([1.0, 2, 3, 4, 0.1]) + 7
    data = x.numpy()
    if rule != "silverman":
        data = (data - data.mean(0)) / data.std(0)
    distances = [[math.dist(a, b) for b in data] for a in data]
    s = {
        "silverman": 5 * 12 ** (-1 / 9),
        "dimension": math.sqrt(5) * 12 ** (-1 / 9),
        "median": float(np.median([distances[i][j] for i in range(12) for j in range(i)])),
    }[rule]
    expected = [[math.exp(-((d / s) ** 2) / 2) / 12 for d in row] for row in distances]
    np.testing.assert_allclose(gram(x, rule).numpy(), expected, rtol=1e-9)


def test_joint_of_three_is_the_normalised_product():
    a, b, c = (gram(normal(6, 2, seed=s), "dimension") for s in range(3))
    product = a.numpy() * b.numpy() * c.numpy()
    np.testing.assert_allclose(joint(a, b, c).numpy(), product / np.trace(product), rtol=1e-12)


def test_leading_dimensions_are_batches():
    x = normal(2, 3, 10, 4)
    whole = entropy(gram(x, "median"), 1.01)
    assert whole.shape == (2, 3)
    for i, j in ((0, 0), (1, 2)):
        assert float(whole[i, j]) == pytest.approx(float(entropy(gram(x[i, j], "median"), 1.01)))


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["dimension", "median"])
def test_units_of_the_features_do_not_matter(rule):
    x = normal(20, 6)
    scale = torch.tensor([1e-3, 1, 10, 100, 2, 3], dtype=torch.float64)
    torch.testing.assert_close(gram(x * scale + 1000, rule), gram(x, rule), rtol=1e-8, atol=1e-12)


def test_silverman_depends_on_the_scale():
    x = normal(256, 1)
    assert float(entropy(gram(x, "silverman"), 1.01)) == pytest.approx(0.98, abs=0.02)
    assert float(entropy(gram(10 * x, "silverman"), 1.01)) == pytest.approx(4.00, abs=0.06)


def test_alpha_near_1_approaches_the_limit():
    a = gram(normal(32, 3), "dimension")
    assert float(entropy(a, 1 + 1e-6)) == pytest.approx(float(entropy(a, 1)), abs=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_joint_entropy_is_at_least_each_and_at_most_the_sum(rule):
    a, b = gram(normal(40, 3), rule), gram(normal(40, 5, seed=1), rule)
    both, one, other = (float(entropy(m, 1.01)) for m in (joint(a, b), a, b))
    assert max(one, other) < both < one + other


# --- degenerate -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_constants_are_alike(rule):
    x = torch.full((9, 4), 0.1, dtype=torch.float64)
    torch.testing.assert_close(gram(x, rule), torch.ones(9, 9, dtype=torch.float64) / 9)


def test_where_most_samples_are_equal_the_median_width_is_0():
    x = torch.tensor([0.0] * 7 + [1.0], dtype=torch.float64)[:, None]
    expected = torch.block_diag(torch.ones(7, 7), torch.ones(1, 1)).double() / 8
    torch.testing.assert_close(gram(x, "median"), expected)


def test_one_sample():
    for rule in ("dimension", "silverman"):
        assert float(entropy(gram(normal(1, 3), rule), 1.01)) == 0


# --- pitfall ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "low", "high"), [("silverman", 0.45, 0.7), ("dimension", 0, 0), ("median", 0, 0)])
def test_a_later_layer_may_seem_to_know_more_of_the_input(rule, low, high):
    """The second layer sees nothing but the first. Layers of random networks rescaled by .1, 1 or 10."""
    draw = np.random.default_rng(0)
    violated = 0
    for seed in range(60):
        scales = draw.choice([0.1, 1, 10], 2)
        x = normal(100, 10, seed=seed)
        first = scales[0] * torch.relu(x @ normal(10, 10, seed=1000 + seed))
        second = scales[1] * torch.relu(first / scales[0] @ normal(10, 10, seed=2000 + seed))
        a, b, c = (gram(layer, rule) for layer in (x, first, second))
        violated += float(information(a, c, 1.01)) > float(information(a, b, 1.01))
    assert low <= violated / 60 <= high
