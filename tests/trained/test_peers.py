"""The same activations of a trained network given to cnnaudit and to other people's code."""

import math

import numpy as np
import pytest
import torch
from builders import make_site
from trained.networks import digits, digits_network

import cnnaudit
from cnnaudit.metrics import registry
from cnnaudit.site import Op
from cnnaudit.statistics import Probe, View

LAYERS = {"conv_layers.2": (32, 14, 14), "conv_layers.5": (64, 7, 7), "conv_layers.8": (128, 3, 3)}
EVERY = 14 * 14  # positions: as many as the largest map has, so that ours reads what the peers read
LEVELS = 32


@pytest.fixture(scope="session")
def maps():
    """The maps of the MNIST network's three pools on 600 digits, with the digits' labels."""
    images, labels = digits()
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:600]
    model, found = digits_network(trained=True), {}

    def keep(module, inputs, output, name):
        found[name] = output

    for name in LAYERS:
        model.get_submodule(name).register_forward_hook(lambda *args, name=name: keep(*args, name))
    with torch.no_grad():
        model(images[chosen])
    assert {name: tuple(x.shape[1:]) for name, x in found.items()} == LAYERS
    return found, labels[chosen]


def rows(x):
    """Positions of all images as samples of the channels, float64 of shape (samples, channels)."""
    return x.movedim(1, -1).reshape(-1, x.shape[1]).double()


def levels(responses):
    """Responses cut at their quantiles into whole numbers below LEVELS; a kernel's zeros share the lowest."""
    cuts = torch.quantile(responses.double(), torch.linspace(0, 1, LEVELS + 1, dtype=torch.float64)[1:-1], dim=0)
    return torch.stack([torch.bucketize(responses[:, k].double(), cuts[:, k]) for k in range(responses.shape[1])], 1)


@pytest.fixture(scope="session")
def responses(maps):
    """Mean responses of every fourth of the deepest layer's kernels, and the labels."""
    found, labels = maps
    return found["conv_layers.8"].mean((2, 3))[:, ::4], labels


# --- layerspec: dimensions ----------------------------------------------------------------------------------------


@pytest.fixture(params=LAYERS)
def layer(request, maps):
    return maps[0][request.param]


@pytest.fixture
def spectrum(layer):
    """The eigenvalues that layerspec finds, descending."""
    from layerspec import CovarianceAccumulator

    samples = rows(layer).numpy()
    accumulator = CovarianceAccumulator(samples.shape[1])
    for part in np.array_split(samples, 7):
        accumulator.update(part)
    return accumulator.eigenvalues()


def test_participation_ratio_is_layerspecs(layer, spectrum):
    from layerspec.metrics import participation_ratio

    ours = cnnaudit.measure("participation_ratio.plugin", layer, positions=EVERY)
    assert ours.value == pytest.approx(participation_ratio(spectrum), rel=1e-9)


def test_the_unbiased_participation_ratio_is_near_layerspecs_where_images_are_many(layer, spectrum):
    from layerspec.metrics import participation_ratio

    ours = cnnaudit.measure("participation_ratio", layer, positions=EVERY)
    assert ours.value == pytest.approx(participation_ratio(spectrum), rel=0.02)
    assert ours.value > participation_ratio(spectrum)


def test_effective_rank_is_layerspecs_before_the_jackknife_takes_its_bias_off(layer, spectrum):
    from layerspec.metrics import effective_rank

    theirs = effective_rank(spectrum)
    assert plain("effective_rank", layer)["eigen"].item() == pytest.approx(theirs, rel=1e-9)
    ours = cnnaudit.measure("effective_rank.eigen", layer, positions=EVERY)
    assert theirs < ours.value < 1.05 * theirs
    assert ours.low <= theirs <= ours.high


def test_saturation_counts_the_dimensions_that_layerspec_counts(layer, spectrum):
    from layerspec.metrics import k_star

    for delta in (0.9, 0.99, 0.999):
        ours = cnnaudit.measure("saturation.dimensions", layer, positions=EVERY, delta=delta)
        assert ours.value == k_star(spectrum, delta)


def test_the_attainable_rank_is_layerspecs(photograph_networks):
    """Depthwise convolutions, pointwise ones of either direction, and the stem of EfficientNet-Lite0."""
    from layerspec.hooks import run_probe

    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    without = dict.fromkeys(("include_activations", "include_blocks", "pooled"), False)
    probe = run_probe(photograph_networks["fresh"], [images], device="cpu", positions_per_image=1, **without)
    theirs = {record.name: record.r_max for record in probe.records() if record.kind == "conv"}
    flow = cnnaudit.profile(photograph_networks["fresh"], images, rules="stable_rank")
    ours = {site.path: site.rank for site in flow.sites if site.op is Op.CONV}
    assert len(ours) == 49
    assert ours == theirs


def plain(name, layer):
    """What a metric gives of all images before it takes off the bias that it finds by leaving groups out."""
    metric, (tap,) = registry()[name], registry()[name].taps
    site = make_site(units=layer.shape[1], taps=(tap,), shape=layer.shape[2:])
    probe = Probe(metric.reads, site, metric.taps, metric.options({"positions": EVERY}))
    statistic, images = metric.reads(probe, 16), torch.arange(len(layer))
    reading = statistic.read(View({tap: layer}, images, None, 0))
    statistic.calibrate([reading])
    statistic.fold(reading, images % 16)
    return metric.function(statistic.pooled(), site, positions=EVERY)


# --- delve: saturation --------------------------------------------------------------------------------------------


def test_saturation_is_delves_in_its_own_field_and_one_dimension_more_by_the_papers_definition(layer):
    from delve.metrics import compute_saturation
    from delve.torch_utils import TorchCovarianceMatrix

    covariance = TorchCovarianceMatrix(device="cpu")
    for part in rows(layer).split(1000):
        covariance.update(part, vae=False)
    theirs, channels = compute_saturation(covariance.fix()), layer.shape[1]
    assert cnnaudit.measure("saturation.delve", layer, positions=EVERY).value == pytest.approx(theirs)
    paper = cnnaudit.measure("saturation", layer, positions=EVERY).value
    assert paper == pytest.approx(theirs + 1 / channels)


# --- scikit-learn: kernels as detectors ---------------------------------------------------------------------------


def scores(score, x, labels):
    """The score of every kernel for every class, shape (kernels, classes)."""
    return np.array([[score(labels == c, x[:, k]) for c in labels.unique()] for k in range(x.shape[1])])


def test_the_best_classs_auroc_is_scikit_learns(responses):
    from sklearn.metrics import roc_auc_score

    x, labels = levels(responses[0]), responses[1]
    ours = cnnaudit.measure("class_auroc.plugin_best", x, labels=labels, levels=LEVELS)
    assert ours.units == pytest.approx(scores(roc_auc_score, x, labels).max(1), abs=1e-9)


def test_average_precision_is_scikit_learns(responses):
    """Ours chooses the class without the images' own parts in their precision: kernels that know little may differ."""
    from sklearn.metrics import average_precision_score

    x, labels = levels(responses[0]), responses[1]
    theirs = scores(average_precision_score, x, labels)
    ours = np.array(cnnaudit.measure("class_ap.plugin_best", x, labels=labels, levels=LEVELS).units)
    assert np.abs(ours[:, None] - theirs).min(1).max() < 1e-9
    telling = theirs.max(1) > 0.25
    assert telling.sum() > 10
    assert ours[telling] == pytest.approx(theirs.max(1)[telling], abs=1e-9)


def test_auroc_is_scikit_learns_on_the_responses_themselves_up_to_the_resolution_that_it_tells(responses):
    from sklearn.metrics import roc_auc_score

    x, labels = responses
    theirs = scores(roc_auc_score, x, labels).max(1)
    ours = cnnaudit.measure("class_auroc.plugin_best", x, labels=labels)
    open_ = cnnaudit.measure("class_auroc.resolution", x, labels=labels)
    assert max(open_.units) < 0.005
    assert np.abs(np.array(ours.units) - theirs).max() <= max(open_.units)


def test_information_is_scikit_learns(responses):
    from sklearn.metrics import mutual_info_score

    x, labels = levels(responses[0]), responses[1]
    theirs = [mutual_info_score(labels, x[:, k]) / math.log(2) for k in range(x.shape[1])]
    ours = cnnaudit.measure("class_information", x, labels=labels, levels=LEVELS, estimator="plugin")
    assert ours.units == pytest.approx(theirs, abs=1e-9)
    assert max(theirs) > 1


def test_information_by_chance_is_scikit_learns(responses):
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

    x, labels = levels(responses[0])[:, :16], responses[1]
    theirs = [
        mutual_info_score(labels, x[:, k])
        - expected_mutual_information(contingency_matrix(labels, x[:, k], sparse=True), len(labels))
        for k in range(x.shape[1])
    ]
    ours = cnnaudit.measure("class_information.chance_adjusted", x, labels=labels, levels=LEVELS)
    assert ours.units == pytest.approx(np.array(theirs) / math.log(2), abs=1e-9)


# --- pytorch-cka --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("conv_layers.2", "conv_layers.5"), ("conv_layers.2", "conv_layers.8")])
def test_cka_is_pytorch_ckas(maps, first, second):
    from cka import cka_from_features

    x, y = (maps[0][name] for name in (first, second))
    theirs = cka_from_features(*(m.double().mean((2, 3)) for m in (x, y))).item()
    assert 0.1 < theirs < 0.99
    assert cnnaudit.measure("linear_cka", x, y).value == pytest.approx(theirs, rel=1e-5)
