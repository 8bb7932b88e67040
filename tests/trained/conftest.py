"""Tests on really trained networks and against peers: skipped where the packages are missing, unless CI wants them."""

import importlib.util
import os

import pytest
import torch
from trained.networks import COLOURED, PACKAGES, crops, digits, digits_network, efficientnet

import cnnaudit

# What is measured of the MNIST network; adding a metric is adding a line.
OF_DIGITS = (
    "activity",
    "class_information",
    "class_auroc",
    "class_selectivity_index",
    "lifetime_sparseness",
    "duplicate_kernels",
    "spatial_entropy",
    "participation_ratio",
    "effective_rank",
    "saturation",
    "usable_information",
    {"metric": "linear_cka", "at": {"from": "conv_layers.0", "to": ["conv_layers.3", "conv_layers.6"]}},
    "stable_rank",
)
# First, middle and last of EfficientNet's convolutions with an activation, for what costs more than a sum.
SOME = ["conv_stem", "blocks.3.1.conv_dw", "conv_head"]
OF_PHOTOGRAPHS = (
    "activity",
    "branch_variance_share",
    {"metric": "class_information", "at": SOME, "params": {"bins": 4}},
    {"metric": "class_auroc", "at": SOME},
    {"metric": "class_selectivity_index", "at": SOME},
    {"metric": "lifetime_sparseness", "at": SOME},
    {"metric": "spatial_entropy", "at": SOME},
    {"metric": "stable_rank", "at": SOME},
    {"metric": "predicted_activity", "at": SOME},
)


@pytest.fixture(scope="session", autouse=True)
def packages():
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return
    told = f"not installed: {', '.join(missing)}; see tests/trained/requirements.txt"
    if os.environ.get("CNNAUDIT_REQUIRE_TRAINED") == "1":
        pytest.fail(told)
    pytest.skip(told)


@pytest.fixture(scope="session", autouse=True)
def one_core(packages):
    """Threads that wait for each other cost these small maps more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digit_networks(packages):
    return {"trained": digits_network(trained=True), "fresh": digits_network(trained=False)}


@pytest.fixture(scope="session")
def digit_flows(digit_networks):
    """Trained and fresh MNIST network, each measured on the same 2,000 of the digits."""
    data = digits()
    return {
        name: cnnaudit.profile(model, data, rules=list(OF_DIGITS), max_images=2000)
        for name, model in digit_networks.items()
    }


@pytest.fixture(scope="session")
def photographs(packages):
    """20 crops of each of 8 photographs, and which photograph each is of."""
    return crops(20, COLOURED)


@pytest.fixture(scope="session")
def photograph_networks(photographs):
    return {
        "trained": efficientnet(trained=True),
        "fresh": efficientnet(trained=False, calibration=photographs[0]),
    }


@pytest.fixture(scope="session")
def photograph_flows(photographs, photograph_networks):
    """Trained and fresh EfficientNet-Lite0. The samples are the crops: claims are about crops of these photographs."""
    return {
        name: cnnaudit.profile(model, photographs, rules=list(OF_PHOTOGRAPHS))
        for name, model in photograph_networks.items()
    }
