import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression

from cnnaudit.intervals import Normal
from cnnaudit.probe import Gain, Logistic, Quotient, Readers, clustered_mean, fitted, surprise, train, usable


def gaussian(n, features, classes, shift, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return rng.standard_normal((n, features)) + shift * rng.standard_normal((classes, features))[labels], labels


def gained(x, labels, clusters=None):
    return usable(np.asarray(x, dtype=float), labels, np.arange(len(labels)) if clusters is None else clusters)


def trained(x, labels, ridge, tolerance=1e-8):
    onehot = np.eye(labels.max() + 1)[labels]
    start = Logistic(np.zeros((x.shape[1] + 1, onehot.shape[1])), ridge)
    return train(x, (x**2).mean(0), onehot, start, tolerance=tolerance)


# --- the reader -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [1.0, 0.01, 0.001])
def test_it_is_the_logistic_regression_of_scikit_learn(ridge):
    x, labels = gaussian(300, 12, 4, 0.5)
    found = trained(x, labels, ridge)
    reference = LogisticRegression(C=1 / (ridge * len(x)), tol=1e-10, max_iter=10_000).fit(x, labels)
    assert pytest.approx(reference.coef_, abs=1e-5) == found.weights[:-1].T
    assert found.probabilities(x) == pytest.approx(reference.predict_proba(x), abs=1e-5)


def test_separable_classes_converge():
    x, labels = gaussian(200, 50, 5, 5.0)
    found = trained(x, labels, 0.001, 1e-5)
    p = found.probabilities(x)
    gradient = x.T @ (p - np.eye(5)[labels]) / len(x) + 0.001 * found.weights[:-1]
    assert np.abs(gradient).max() < 1e-4
    assert (p.argmax(1) == labels).all()


# --- what it gains ----------------------------------------------------------------------------------------------


def test_gains_are_held_out_losses_of_scikit_learn_at_the_best_penalty():
    """Another program, other folds: the same bits within what folds decide."""
    x, labels = gaussian(400, 10, 4, 0.6)
    x = (x - x.mean(0)) / x.std(0)
    rng = np.random.default_rng(1)
    losses = {}
    for ridge in (0.1, 0.01, 0.001):
        folds = rng.permutation(400) % 5
        held = np.empty(400)
        for fold in range(5):
            learned = folds != fold
            model = LogisticRegression(C=1 / (ridge * learned.sum()), max_iter=1000).fit(x[learned], labels[learned])
            held[~learned] = -np.log2(model.predict_proba(x[~learned])[np.arange((~learned).sum()), labels[~learned]])
        losses[ridge] = held.mean()
    assert gained(x, labels).bits.mean() == pytest.approx(2 - min(losses.values()), abs=0.04)


def test_a_reader_of_nothing_gains_exactly_nothing():
    labels = np.arange(100) % 2
    for x in (np.zeros((100, 3)), np.full((100, 2), 7.7), np.zeros((100, 0))):
        found = gained(x, labels)
        assert (found.bits == 0).all()
        assert (found.influence == 0).all()
        assert found.parameters == 1


def test_rounding_is_no_feature():
    labels = np.arange(100) % 2
    constant = np.float32(1e6) * (1 + np.float32(1e-7) * labels[:, None].astype(np.float32))
    assert (gained(constant, labels).bits == 0).all()


def test_no_loss_is_unbounded():
    """Features that name the class on all images but one that is mislabelled."""
    labels = np.arange(200) % 2
    x = 1e3 * (2.0 * labels[:, None] - 1)
    labels = labels.copy()
    labels[0] = 1
    assert gained(x, labels).bits.min() > -math.log2(1 / 0.001 / 0.45)


def test_parameters_are_counted_for_features_that_vary():
    x, labels = gaussian(120, 7, 3, 1.0)
    x[:, 2] = 4
    assert gained(x, labels).parameters == (6 + 1) * 2


@pytest.mark.parametrize("rows", [1, 2, 19])
def test_with_too_few_images_there_is_no_value(rows):
    x, labels = gaussian(rows, 3, 2, 1.0)
    found = gained(x, labels)
    assert np.isnan(found.bits).all()
    assert np.isnan(found.influence).all()
    assert found.bits.shape == (2, rows)


def test_with_one_class_or_few_clusters_there_is_no_value():
    x, labels = gaussian(100, 3, 2, 1.0)
    assert np.isnan(gained(x, np.zeros_like(labels)).bits).all()
    assert np.isnan(gained(x, labels, np.arange(100) % 4).bits).all()
    assert not np.isnan(gained(x, labels, np.arange(100) % 5).bits).any()


def test_images_of_one_cluster_never_teach_each_other():
    """Every cluster has a feature of its own and one label: across clusters there is nothing to learn."""
    clusters = np.repeat(np.arange(40), 5)
    labels = (clusters % 2).astype(np.int64)
    x = np.eye(40)[clusters]
    assert gained(x, labels, clusters).bits.mean() <= 0
    assert gained(x, labels).bits.mean() > 0.8


def test_more_features_than_images():
    x, labels = gaussian(60, 200, 2, 1.0)
    assert gained(x, labels).bits.mean() > 0.8


def test_influence_is_that_of_leaving_images_out():
    """The infinitesimal jackknife against the slow one over 20 groups, which also moves the folds."""
    x, labels = gaussian(120, 6, 2, 0.5)
    found = gained(x, labels)
    groups = np.random.default_rng(0).permutation(120) % 20
    rest = np.array([gained(x[groups != g], labels[groups != g]).bits.mean() for g in range(20)])
    slow = math.sqrt(((rest - rest.mean()) ** 2).sum() * 19 / 20)
    fast = found.influence.std(ddof=1) / math.sqrt(120)
    plain = found.bits.mean(0).std(ddof=1) / math.sqrt(120)
    assert found.influence.mean() == pytest.approx(found.bits.mean(), abs=1e-12)
    assert 1.05 * plain < fast < 1.5 * slow


# --- means over images ------------------------------------------------------------------------------------------


def test_a_mean_of_independent_images_is_students():
    z = np.random.default_rng(0).standard_normal(50)
    found = clustered_mean(z, np.arange(50), 0.0, 0.0)
    low, high = found.interval(0.95)
    expected = stats.ttest_1samp(z, 0).confidence_interval(0.95)
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high))


def test_repeated_images_of_one_source_tell_nothing_new():
    z = np.random.default_rng(0).standard_normal(50)
    alone, repeated = (
        clustered_mean(np.repeat(z, k), np.repeat(np.arange(50), k), 0.0, 0.0).interval(0.95) for k in (1, 4)
    )
    assert repeated[0] == pytest.approx(alone[0])
    assert repeated[1] == pytest.approx(alone[1])


def test_chance_in_the_estimator_widens_the_interval():
    z = np.random.default_rng(0).standard_normal(50)
    error = clustered_mean(z, np.arange(50), 0.3, 0.0).error[0]
    assert error == pytest.approx(math.sqrt(z.var(ddof=1) / 50 + 0.3**2 / 2))


def test_images_that_agree_still_leave_a_doubt():
    found = clustered_mean(np.zeros(50), np.arange(50), 0.0, 0.04)
    assert found.value == [0]
    assert found.error == pytest.approx([0.04])


def test_one_cluster_has_no_error_of_its_own():
    found = clustered_mean(np.ones(9), np.zeros(9, dtype=np.int64), 0.0, 0.0)
    assert found.interval(0.95) == (pytest.approx([-math.inf]), pytest.approx([math.inf]))


def test_its_error_is_by_source_already():
    found = clustered_mean(np.arange(9.0), np.arange(9), 0.0, 0.0)
    assert isinstance(found, Normal)
    assert found.regrouped([], np.ones(9), 9) is found


def test_surprise_is_the_entropy_of_labels_on_average():
    assert surprise(np.array([3, 3, 3, 5])) == pytest.approx([math.log2(4 / 3)] * 3 + [2])
    assert surprise(np.array([0, 0, 0, 1])).mean() == pytest.approx(0.811278, abs=1e-6)


def test_differences_are_paired():
    a = Gain(np.array([[1.0, 2.0], [1.0, 4.0]]), np.array([1.0, 3.0]), 5)
    lost = a - a
    assert (lost.bits == 0).all()
    assert (lost.influence == 0).all()
    assert lost.spread == 0
    assert a.spread == pytest.approx(math.sqrt(0.5))


# --- readers of several features --------------------------------------------------------------------------------


def test_gains_add_up():
    a, b = (Gain(np.array([[x, 2.0], [1.0, 4.0]]), np.array([x, 3.0]), 5) for x in (1.0, 7.0))
    both = a.plus(b)
    assert both.bits.tolist() == [[8, 4], [2, 8]]
    assert both.influence.tolist() == [8, 6]


def test_the_better_reader_of_each_fold_is_taken():
    x, labels = gaussian(100, 3, 2, 0.5)
    other = np.random.default_rng(5).standard_normal((100, 3))
    mine, others = (fitted(features, labels, np.arange(100)) for features in (x, np.concatenate([x, other], 1)))
    chosen = others.or_else(mine)
    assert (chosen.losses == np.minimum(mine.losses, others.losses)).all()
    for repeat, fold in np.ndindex(*chosen.losses.shape):
        best = mine if mine.losses[repeat, fold] < others.losses[repeat, fold] else others
        assert (chosen.bits[repeat, fold] == best.bits[repeat, fold]).all()
        assert (chosen.taught[repeat, fold] == best.taught[repeat, fold]).all()
    assert chosen.parameters == others.parameters


def test_features_of_noise_are_ignored_where_that_is_a_choice():
    x, labels = gaussian(200, 4, 2, 0.5)
    noise = np.random.default_rng(5).standard_normal((200, 60))
    alone, both = (fitted(features, labels, np.arange(200)) for features in (x, np.concatenate([x, noise], 1)))
    assert both.gain.bits.mean() < alone.gain.bits.mean() - 0.05
    assert both.or_else(alone).gain.bits.mean() == pytest.approx(alone.gain.bits.mean(), abs=0.01)


def test_a_fold_holds_the_gains_of_its_images_alone():
    x, labels = gaussian(100, 3, 2, 0.5)
    fits = fitted(x, labels, np.arange(100))
    assert ((fits.bits != 0).sum(1) == 1).all()
    assert not ((fits.bits != 0) & (fits.taught != 0)).any()
    assert (fits.gain.bits == gained(x, labels).bits).all()


def test_a_share_is_over_the_entropy_of_the_labels():
    x, labels = gaussian(120, 3, 3, 1.0)
    readers = Readers(torch.from_numpy(labels), torch.arange(120), 120)
    gain = readers.fitted(torch.from_numpy(x[:, :2]), torch.from_numpy(x[:, 2:])).gain
    assert readers.entropy == pytest.approx(math.log2(3))
    assert readers.share(gain).value == pytest.approx(readers.bits(gain).value / math.log2(3))
    assert readers.bits(gain, 10).value == pytest.approx(10 * readers.bits(gain).value)
    assert readers.bits(gain, 10).error == pytest.approx(10 * readers.bits(gain).error)
    assert (gain.bits == gained(x, labels).bits).all()


@pytest.mark.parametrize(
    ("groups", "sources", "count"), [(400, 400, 400), (40, 400, 400), (40, 5000, 400), (40, 40, 40)]
)
def test_what_agrees_is_known_by_the_sources_of_the_sample(groups, sources, count):
    labels = np.arange(400) % 2
    readers = Readers(torch.from_numpy(labels), torch.arange(400) // (400 // groups), sources)
    nothing = Gain(np.zeros((2, 400)), np.zeros(400), 1)
    assert readers.bits(nothing).error == pytest.approx([1 / count])
    assert readers.bits(nothing, 5).error == pytest.approx([5 / count])
    assert readers.share(nothing).error == pytest.approx([1 / count])
    assert readers.bits(nothing).dof == pytest.approx(groups - 1)
    assert readers.quotient(nothing, nothing, 1).variances[0] == pytest.approx(1 / count**2)


def test_unlike_sources_count_as_fewer():
    labels, groups = np.arange(400) % 2, np.minimum(np.arange(400) // 5, 40)  # one group holds half of the images
    nothing = Gain(np.zeros((2, 400)), np.zeros(400), 1)
    error = Readers(torch.from_numpy(labels), torch.from_numpy(groups), 200).bits(nothing).error[0]
    assert 1 / 5 < error < 1 / 3


# --- quotients --------------------------------------------------------------------------------------------------


def test_a_quotient_with_a_sure_denominator_is_normal():
    found = Quotient(np.array([2.0]), np.array([4.0]), (0.01, 0.0, 0.0), math.inf, 6.0)
    low, high = found.interval(0.95)
    assert found.value == [3]
    assert (low[0], high[0]) == pytest.approx((3 - 6 * 1.959964 * 0.1 / 4, 3 + 6 * 1.959964 * 0.1 / 4))


def test_a_quotient_of_perfectly_correlated_estimates_is_exact():
    low, high = Quotient(np.array([1.0]), np.array([2.0]), (0.01, 0.02, 0.04), 50, 1.0).interval(0.95)
    assert (low[0], high[0]) == pytest.approx((0.5, 0.5), abs=1e-6)


def test_a_quotient_over_what_may_be_nothing_is_unknown():
    found = Quotient(np.array([1.0]), np.array([0.1]), (0.01, 0.0, 0.01), 50, 1.0)
    assert found.interval(0.95) == ([-math.inf], [math.inf])
    assert found.p_at_most(0) > 0.1
    assert math.isnan(Quotient(np.zeros(1), np.zeros(1), (0.0, 0.0, 0.0), 50, 1.0).value[0])


def test_fiellers_interval_covers_and_agrees_with_its_p_values():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        upper, lower = rng.multivariate_normal([1.0, 2.0], [[0.09, 0.05], [0.05, 0.25]])
        found = Quotient(np.array([upper]), np.array([lower]), (0.09, 0.05, 0.25), math.inf, 1.0)
        low, high = found.interval(0.95)
        covered += bool(low[0] <= 0.5 <= high[0])
    assert 370 <= covered <= 392
    assert found.p_at_most(low[0]) == pytest.approx(0.025, rel=1e-3)
    assert found.p_at_least(high[0]) == pytest.approx(0.025, rel=1e-3)


def test_a_quotient_of_gains_pairs_them():
    x, labels = gaussian(200, 4, 2, 1.0)
    readers = Readers(torch.from_numpy(labels), torch.arange(200), 200)
    x = torch.from_numpy(x)
    gain = readers.fitted(x).gain
    same = readers.quotient(gain, gain, 4)
    low, high = same.interval(0.95)
    assert same.value == pytest.approx([4])
    assert 4 - low[0] == pytest.approx(4 * 2 / 200 / gain.influence.mean(), rel=0.1)
    wide = readers.quotient(readers.fitted(x[:, :2]).gain, gain, 4).interval(0.95)
    assert wide[1][0] - wide[0][0] > 3 * (high[0] - low[0])
