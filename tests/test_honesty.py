"""Ways in which an audit could quietly say something wrong, each found once and never to come back."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

import cnnaudit
from cnnaudit.cli import main
from cnnaudit.errors import GraphError, LoadError

DEAD = {"metric": "activity.dead", "max": 0}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def audited(model, images, *rules, labels=None, **keys):
    spec = {"cnnaudit": 1, "rules": list(rules)} | keys
    return cnnaudit.audit(spec, model=model, data=images if labels is None else (images, labels))


def values(report):
    return [(v.site, v.outcome, v.value, v.low, v.high) for v in report.verdicts]


class Net(nn.Module):
    """A convolution and what a function makes of it."""

    def __init__(self, forward, size=6):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.other = nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.LazyLinear(3)
        self.function = forward
        self(torch.zeros(2, 1, size, size))

    def forward(self, x):
        return self.head(self.function(self, self.conv(x)).flatten(1))


class TestInPlace:
    """A ReLU may overwrite its input only where nobody will see it."""

    def test_a_slice_of_the_input_lives_on(self):
        def forward(net, x, activation):
            part = x[:, :4]
            return net.other(activation(x)) + part

        images = torch.randn(96, 1, 6, 6)
        rule = {"metric": "branch_variance_share.ratio", "min": 0}
        found = []
        for activation in (torch.relu, lambda x: F.leaky_relu(x, 0.0)):
            torch.manual_seed(1)
            model = Net(lambda net, x, a=activation: forward(net, x, a))
            found.append(values(audited(model, images, rule)))
        assert found[0] == found[1]

    def test_a_reading_waits_for_its_grid(self):
        def forward(net, x, activation):
            return torch.cat([x.mean((2, 3)), activation(x).amax((2, 3))], 1)

        images = torch.randn(96, 1, 2, 2)
        rule = {"metric": "pool_entropy_loss", "max": 1, "params": {"levels": 3, "estimator": "plugin"}}
        found = []
        for activation in (torch.relu, lambda x: F.leaky_relu(x, 0.0)):
            torch.manual_seed(1)
            model = Net(lambda net, x, a=activation: forward(net, x, a), size=2)
            found.append(values(audited(model, images, rule))[0])
        assert found[0] == found[1]


class TestPadding:
    @pytest.mark.parametrize("value", [0.0, -float("inf")])
    def test_windows_that_touch_explicit_padding_are_left_out(self, value):
        """A dense map loses 8 of 9 values in a 3x3 window; padding would count as silent values, or as NaN."""

        def forward(net, x):
            return F.max_pool2d(F.pad(x.sigmoid(), (0, 1, 1, 0), value=value), 3, 2)

        report = audited(Net(forward), torch.rand(60, 1, 6, 6), {"metric": "pool_information_dimension_loss", "max": 1})
        assert values(report)[0][:3] == ("#max_pool.0", "pass", pytest.approx(8 / 9, abs=1e-12))


class TestCertainty:
    def test_images_that_all_agree_leave_a_doubt(self):
        """100 images without a silent one do not show that fewer than one in 200 is."""
        x = torch.rand(100, 1, 4, 4) + 0.1
        found = cnnaudit.measure("activity.apoz", x)
        assert (found.value, found.low) == (0, 0)
        assert found.high == pytest.approx(1 - 0.025**0.01)

    def test_the_density_ratio_is_gated_by_its_own_histograms(self):
        images = torch.rand(352, 1, 16, 16)
        model = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3))
        rules = [
            {"metric": f"pool_entropy_loss.{field}", "min": 0, "id": field, "params": {"levels": 8}}
            for field in ("relative", "density_ratio")
        ]
        relative, density = audited(model, images, *rules).verdicts
        assert relative.outcome == "pass"
        assert density.outcome == "undecided"
        assert density.n_needed > 2 * 352

    def test_classes_are_those_that_were_met(self):
        labels = torch.arange(480) % 30
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())  # its head has 4 channels and says nothing of the classes
        rule = {"metric": "class_information", "min": 0}
        batches = list(zip(torch.rand(480, 1, 5, 5).split(48), labels.split(48), strict=True))
        report = cnnaudit.audit({"cnnaudit": 1, "rules": [rule]}, model=net, data=batches)
        (verdict,) = [v for v in report.verdicts if v.outcome != "not_applicable"]
        assert (verdict.outcome, verdict.n_needed) == ("undecided", 5 * 8 * 30)

    def test_information_stays_below_what_the_classes_have(self):
        y = torch.arange(200) % 4
        found = cnnaudit.measure("class_information.normalised", y[:, None], labels=y, levels=4)
        assert found.value == pytest.approx(1, abs=1e-4)  # Grassberger's estimate of four cells of 50
        assert found.value <= found.high == 1

    def test_nothing_judged_is_not_passed(self):
        rule = {"metric": "branch_variance_share", "min": 0, "if_absent": "skip"}
        report = audited(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.rand(20, 1, 5, 5), rule)
        assert [v.outcome for v in report.verdicts] == ["not_applicable"]
        assert (report.exit_code, report.passed) == (2, False)


class TestReference:
    """The captured graph is compared with the model on the first block."""

    def test_infinities_in_one_output_do_not_hide_noise_in_another(self):
        def forward(net, x):
            quiet = torch.log(torch.zeros_like(x[:, :1]))
            return torch.cat([quiet, x + torch.randn_like(x)], 1)

        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), Lambda(forward))
        with pytest.raises(GraphError, match="computes something else"):
            audited(model, torch.rand(20, 1, 5, 5), DEAD)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_model_that_writes_into_its_input(self, channels):
        class Shifting(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(channels, 4, 3)

            def forward(self, x):
                x -= 0.5
                return self.conv(x).relu()

        images = torch.rand(40, channels, 5, 5)
        before = images.clone()
        report = cnnaudit.audit(
            {"cnnaudit": 1, "rules": [{"metric": "activity.dormant", "min": 0}]}, model=Shifting(), data=[images]
        )
        assert report.verdicts[0].outcome == "undecided"  # for want of images, not of a graph
        assert torch.equal(images, before)


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(self, x)


class TestReports:
    def test_the_fields_beside_a_claim_about_these_images_are_about_them_too(self):
        """Two of 400 images activate the kernel: it is not dead on these images."""
        images = torch.zeros(400, 1, 4, 4)
        images[7] = images[300] = 1.0
        model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
        nn.init.ones_(model[0].weight)
        (verdict,) = [
            v for v in audited(model, images, {"metric": "activity.dead", "max": 0}).verdicts if v.op == "conv"
        ]
        assert (verdict.outcome, verdict.value, verdict.fields["dead"]) == ("pass", 0, 0)

    def test_more_images_decide_whether_a_kernel_is_dead_in_the_population(self):
        images = torch.zeros(120, 1, 4, 4)
        model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
        rule = {"metric": "activity.dead", "min": 1, "estimand": "population"}
        (verdict,) = [v for v in audited(model, images, rule).verdicts if v.op == "conv"]
        assert verdict.outcome == "undecided"
        assert verdict.n_needed == 299

    def test_a_report_that_cannot_be_written_is_refused_before_anything_is_read(self, capsys):
        assert main(["check", "README.md", "--format", "json=nowhere/report.json"]) == 2
        assert "nowhere/report.json cannot be written" in capsys.readouterr().err


class TestTrust:
    def test_helpers_of_model_zoos_are_code_like_any_other(self):
        load = {"load": "timm.models:load_state_dict", "kwargs": {"checkpoint_path": "x.pth", "weights_only": False}}
        spec = {"cnnaudit": 1, "model": load, "rules": [{"metric": "activity.dead", "max": 0}]}
        with pytest.raises(LoadError, match="importing it is not allowed"):
            cnnaudit.audit(spec, data=torch.rand(4, 1, 5, 5))

    def test_zoo_names_open_no_files(self):
        load = {"load": "torchvision:resnet18", "kwargs": {"checkpoint_path": "x.pth"}}
        spec = {"cnnaudit": 1, "model": load, "rules": [{"metric": "activity.dead", "max": 0}]}
        with pytest.raises(LoadError, match="checkpoint_path would open files"):
            cnnaudit.audit(spec, data=torch.rand(4, 3, 32, 32))


def test_no_images_are_an_error():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    for data in ([(torch.zeros(0, 1, 4, 4),)], (np.zeros((0, 1, 4, 4), np.float32), np.zeros(0, int))):
        with pytest.raises(LoadError, match="no images"):
            cnnaudit.audit({"cnnaudit": 1, "rules": [{"metric": "activity.dead", "max": 0}]}, model=model, data=data)


def test_a_list_of_labels_is_labels():
    report = cnnaudit.audit(
        {"cnnaudit": 1, "rules": [{"metric": "class_information", "min": 0}]},
        model=nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)),
        data=(torch.rand(100, 1, 4, 4), [0, 1] * 50),
    )
    assert report.verdicts[0].n_images == 100


class TestNotes:
    def test_whole_numbers_are_noted(self):
        images = torch.randint(0, 255, (40, 1, 4, 4), dtype=torch.uint8)
        report = audited(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), images, DEAD)
        assert report.notes == ("The images are whole numbers and went in as float32 without scaling.",)

    def test_forgotten_weights_are_noted(self):
        spec = {"cnnaudit": 1, "model": "torchvision:squeezenet1_1", "rules": [DEAD]}
        report = cnnaudit.audit(spec, data=torch.rand(2, 3, 64, 64))
        assert report.notes == ("No `weights:`: torchvision:squeezenet1_1 was audited with random weights.",)


def test_a_network_inside_a_wrapper_has_its_own_names():
    model = nn.DataParallel(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()))
    assert audited(model, torch.rand(20, 1, 4, 4), DEAD).verdicts[0].site == "0"


def test_small_maps_are_audited_with_one_thread_and_the_setting_is_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        report = audited(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), torch.rand(20, 1, 4, 4), DEAD)
        assert report.settings["threads"] == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_of_one_class_nothing_is_known():
    images, labels = torch.rand(100, 1, 4, 4), torch.zeros(100, dtype=torch.int64)
    rule = {"metric": "class_information", "min": 0.1}
    report = audited(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), images, rule, labels=labels)
    assert report.verdicts[0].outcome == "undecided"


def test_data_may_be_named_from_python_as_in_a_rule_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", images=np.random.default_rng(0).random((20, 1, 4, 4), dtype=np.float32))
    report = audited(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), "x.npz", DEAD)
    assert (report.data["source"], report.data["n_images"]) == ("x.npz", 20)
