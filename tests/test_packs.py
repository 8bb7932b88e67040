"""Packs on networks of many kinds: what they ask for is not everywhere, and nothing sound fails."""

import pytest
import torch
import torchvision
from torch import nn

import cnnaudit
from cnnaudit.result import Outcome
from cnnaudit.spec import packs


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Residual(nn.Module):
    """Two blocks behind a stem, with any norm, and where it is wanted a squeeze-excite gate."""

    def __init__(self, norm, *, gate=False):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(8, 8, 3, padding=1, bias=False), norm(8), nn.ReLU()),
                *(nn.Conv2d(8, 8, 3, padding=1, bias=False), norm(8)),
            )
            for _ in range(2)
        )
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid()) if gate else None
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            branch = block(x)
            x = torch.relu(x + (branch if self.gate is None else branch * self.gate(branch)))
        return self.head(x)


def vgg():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    )


def mobilenet():
    setting = [[1, 16, 1, 1], [4, 16, 2, 2]]
    return torchvision.models.MobileNetV2(4, width_mult=0.1, inverted_residual_setting=setting)


NETWORKS = {
    "vgg": vgg,
    "mobilenet": mobilenet,
    "densenet": lambda: torchvision.models.DenseNet(4, (2, 2), 8, num_classes=4),
    "resnet": lambda: Residual(nn.BatchNorm2d),
    "group norm": lambda: Residual(lambda channels: nn.GroupNorm(2, channels)),
    "squeeze-excite": lambda: Residual(nn.BatchNorm2d, gate=True),
}


def images(count, side=32):
    """Smooth random images, of which a class has a brightness of its own."""
    torch.manual_seed(1)
    labels = torch.arange(count) % 4
    noise = nn.functional.avg_pool2d(torch.randn(count, 3, side + 2, side + 2), 3, stride=1)
    return noise + labels.reshape(-1, 1, 1, 1) / 4, labels


def network(name):
    torch.manual_seed(0)
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of the images below
    with torch.no_grad():
        model.train()(images(64)[0])
    return model.eval()


@pytest.fixture(scope="module", params=NETWORKS)
def report(request):
    spec = {"cnnaudit": 1, "extends": list(packs()), "sampling": {"crop": 24, "looks": 1}}
    return cnnaudit.audit(spec, model=network(request.param), data=images(104))


def test_nothing_fails_and_nothing_breaks(report):
    found = {(v.outcome, v.rule, v.place) for v in report.verdicts if v.outcome in (Outcome.FAIL, Outcome.ERROR)}
    assert found == set()


def test_what_is_not_there_is_not_applicable_and_counted(report):
    residual = {"idle-blocks", "residual-share", "block-effect", "added-information", "merge-loss", "branch-share"}
    outcomes = {report.outcome(rule) for rule in residual}
    if report.model["sites"].get("residual", 0):
        assert outcomes == {Outcome.MEASURED, Outcome.PASS}  # 104 images show that no block is idle
    else:
        assert outcomes == {Outcome.NOT_APPLICABLE}
        assert report.summary["rules"]["not_applicable"] >= len(residual)


def test_only_a_few_rules_judge(report):
    judging = {v.rule for v in report.verdicts if v.outcome not in (Outcome.MEASURED, Outcome.NOT_APPLICABLE)}
    assert judging <= {"dead-kernels", "idle-blocks", "shift-by-stride"}


def test_an_undecided_warning_does_not_fail_the_audit():
    model, data = network("resnet"), images(104)
    report = cnnaudit.audit({"cnnaudit": 1, "extends": "cnnaudit:recommended"}, model=model, data=data)
    assert report.outcome("dead-kernels") is Outcome.UNDECIDED  # 104 images
    assert (report.exit_code, report.settings["undecided"]) == (0, "fail")


def test_what_needs_labels_or_a_canvas_is_skipped_where_there_are_none():
    model, (pixels, _) = network("resnet"), images(64)
    report = cnnaudit.audit({"cnnaudit": 1, "extends": list(packs())}, model=model, data=[pixels])
    for rule in ("class-information", "added-information", "merge-loss", "shift-consistency", "shift-by-stride"):
        assert report.outcome(rule) is Outcome.NOT_APPLICABLE, rule


def test_a_dead_kernel_and_an_idle_block_are_found():
    """With as many images as that takes."""
    model = network("resnet")
    with torch.no_grad():
        model.blocks[0][1].bias[3] = -100
        model.blocks[1][4].weight.zero_()
        model.blocks[1][4].bias.zero_()
    spec = {"cnnaudit": 1, "extends": ["cnnaudit:recommended", "cnnaudit:residual"], "sampling": {"looks": 1}}
    without = ["added-information", "merge-loss", "class-information"]
    report = cnnaudit.audit({**spec, "without": without}, model=model, data=images(4000, side=8))
    failed = {(v.rule, v.site) for v in report.verdicts if v.outcome is Outcome.FAIL}
    assert failed == {("dead-kernels", "blocks.0.0"), ("idle-blocks", report_site(report, 1))}
    assert report.exit_code == 0  # they are warnings


def report_site(report, number):
    return [v.site for v in report.verdicts if v.rule == "idle-blocks"][number]


@pytest.mark.parametrize("order", [["recommended", "deployment"], ["deployment", "recommended"]])
def test_the_last_pack_says_how_grave_a_dead_kernel_is(order):
    from cnnaudit.metrics import vocabulary
    from cnnaudit.spec import from_mapping

    spec = from_mapping({"cnnaudit": 1, "extends": [f"cnnaudit:{name}" for name in order]}, vocabulary())
    (dead,) = [rule for rule in spec.rules if rule.id == "dead-kernels"]
    assert dead.severity == {"recommended": "warning", "deployment": "error"}[order[-1]]
