"""A first look from the command line: what is printed is what the library measures."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cnnaudit
from cnnaudit.cli import main
from cnnaudit.cli._first_look import METRICS

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(width, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = self.pool(x + self.conv2(torch.relu(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def build(width=6):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Net(width)
    with torch.no_grad():
        model.stem.bias[2] = -100
    return model


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, left, right):
        maps = torch.relu(self.conv(left)) * torch.sigmoid(self.conv(right))
        return {"maps": maps, "logits": self.fc(maps.mean((2, 3)))}


def two():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Two()
"""
ROOT = Path(__file__).parent.parent
ALLOWED = ["--allow-import", "net.py"]
N = 120


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "net.py").write_text(NET, encoding="utf-8")
    rng = np.random.default_rng(0)
    labels = np.arange(N) % 3
    images = rng.random((N, 1, 8, 8), dtype=np.float32) + labels[:, None, None, None].astype(np.float32) / 2
    np.savez(folder / "x.npz", images=images, labels=labels)
    np.savez(folder / "two.npz", left=images, right=images[::-1].copy(), labels=labels)
    np.savez(folder / "last.npz", images=np.moveaxis(images.repeat(3, 1), 1, -1))
    return folder


@pytest.fixture(autouse=True)
def _inside(project, monkeypatch, one_thread):
    monkeypatch.chdir(project)
    monkeypatch.delenv("CNNAUDIT_ALLOW_IMPORT", raising=False)


@pytest.fixture(scope="module")
def flow(project):
    """What the library measures of the same."""
    held = np.load(project / "x.npz")
    names = {}
    exec(NET, names)  # noqa: S102 - the network above
    return cnnaudit.profile(names["build"](), (held["images"], held["labels"]), rules=METRICS[:4])


@pytest.fixture(scope="module")
def printed(project):
    """The first look, and everything that was measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        command = [Path(sys.executable).parent / "cnnaudit", "profile", "net.py:build", *ALLOWED, "--data", "x.npz"]
        ran = subprocess.run(
            [*command, "--format", "json=all.json"], capture_output=True, text=True, check=False, cwd=project
        )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def told(estimate, digits=3):
    return "{:.{d}g} [{:.{d}g}, {:.{d}g}]".format(estimate.value, estimate.low, estimate.high, d=digits)


def lines(text):
    """The sites' lines by path: the mark, and what was measured."""
    found = {}
    for line in text.split("\n\n")[0].splitlines()[2:]:
        path, *rest = re.split(r"  +", line[1:].strip())
        found[path] = line[0] == ">", "  ".join(rest)
    return found


class TestSites:
    def test_they_come_in_the_order_of_the_network(self, printed, flow):
        assert list(lines(printed)) == [site.path for site in flow.sites if site.path != "input"]

    def test_a_convolution_tells_its_kernels(self, printed, flow):
        marked, line = lines(printed)["stem"]
        assert flow["activity.dead"]["stem"].units == (0, 0, 1, 0, 0, 0)
        dormant = sum(unit <= 0.025 for unit in flow["activity.dormant"]["stem"].units)
        zeros = flow["activity.apoz"]["stem"].value
        information = flow["class_information"]["stem"]
        assert marked
        assert line.startswith(f"conv  6  8x8  dead 1  dormant {dormant}  ")
        assert f"zeros {zeros:.2g}  " in line
        assert line.endswith(f"class {told(information, 2)}  best {max(information.units):.2g}")

    def test_where_no_activation_makes_zeros_none_are_told(self, printed):
        assert "dead -  dormant 0" in lines(printed)["conv2"][1]
        assert "zeros -" in lines(printed)["conv2"][1]

    def test_an_addition_and_a_pool(self, printed, flow):
        share, loss = flow["branch_variance_share.share"]["#add.0"], flow["pool_entropy_loss.relative"]["pool"]
        marked, line = lines(printed)["#add.0"]
        correlation = flow["branch_variance_share.correlation"]["#add.0"].value
        assert marked
        assert line == f"residual  6  8x8  branch {told(share)} of the variance  correlation {correlation:.3g}"
        assert f"max pool  6  4x4  loses {told(loss)} of a window's entropy" in lines(printed)["pool"][1]

    def test_where_to_look_first(self, printed, flow):
        look = printed.split("\n\n")[1].splitlines()
        assert look[0].startswith("Look first (>) at")
        share = told(flow["branch_variance_share.share"]["#add.0"])
        assert re.split(r"  +", look[1].strip()) == [
            *("most dead kernels", "stem", "1 of 6; 1 in all, at 1 of 2 sites", "activity")
        ]
        weakest = next(line for line in look if "weakest branch" in line)
        assert f"  #add.0  {share}; the largest is {share[: share.index(' ')]}  " in weakest

    def test_it_fits_a_terminal(self, printed):
        assert max(map(len, printed.splitlines())) <= 120


def test_what_was_measured_on_what(printed):
    foot = printed.split("\n\n")[-1].splitlines()
    parameters = (9 + 1) * 6 + 2 * (54 + 1) * 6 + (6 + 1) * 3
    macs = 64 * 6 * 9 + 2 * 64 * 6 * 54 + 18
    assert foot[0] == f"model      net.py:build: {parameters} parameters, {macs / 1000:.3g} k multiplications an image"
    assert foot[1] == "images     120 of x.npz, 1 x 8 x 8, labels of 3 classes; order seeded, seed 0"
    assert foot[2] == "transform  none"
    assert foot[3].startswith("run        evaluation mode, float32, cpu, ")
    assert foot[4] == "note       No `weights:`: net.py:build was audited with the weights it was returned with."
    assert foot[-1].startswith("next       Write what must hold into a rule file")
    assert "one that 2.5% of images activate may be among them" in " ".join(printed.split())  # 1 - 0.05 ** (1 / 120)


def test_json_holds_every_field_with_every_unit(printed, project, flow):
    body = json.loads((project / "all.json").read_text(encoding="utf-8"))
    assert body["data"]["n_images"] == N
    assert body["model"]["source"] == "net.py:build"
    dead = [r for r in body["measured"] if (r["metric"], r["field"], r["site"]) == ("activity", "dead", "stem")]
    assert [(r["op"], r["units"], r["unit"], r["n_images"]) for r in dead] == [
        ("conv", [0, 0, 1, 0, 0, 0], "indicator", N)
    ]
    found = {(r["metric"], r["field"], r["site"]): (r["value"], r["low"], r["high"]) for r in body["measured"]}
    for field in ("share", "ratio", "correlation"):
        estimate = flow[f"branch_variance_share.{field}"]["#add.0"]
        assert found["branch_variance_share", field, "#add.0"] == (estimate.value, estimate.low, estimate.high)


class TestOptions:
    def test_rules_say_what_is_measured_in_their_own_words(self, capsys, flow):
        argv = ["profile", "net.py:build", *ALLOWED, "--data", "x.npz", "--rules", "activity.apoz"]
        assert main([*argv, "--rules", "branch_variance_share"]) == 0
        found = lines(capsys.readouterr().out)
        apoz, share = flow["activity.apoz"]["stem"], flow["branch_variance_share"]["#add.0"]
        estimated = f"{apoz.value:.4g} [{apoz.low:.4g}, {apoz.high:.4g}] fraction"
        ends = f"{min(apoz.units):.4g} to {max(apoz.units):.4g} over 6 units"
        assert found["stem"] == (False, f"conv  6  8x8  activity.apoz {estimated}; {ends}")
        assert f"branch_variance_share {share.value:.4g} [" in found["#add.0"][1]
        assert found["pool"][1] == "max pool  6  4x4"

    def test_a_pack_may_be_measured(self, capsys):
        assert main(["profile", "net.py:build", *ALLOWED, "--data", "x.npz", "--rules", "cnnaudit:residual"]) == 0
        assert "residual-ratio " in capsys.readouterr().out

    def test_arguments_and_fewer_images(self, capsys):
        argv = ["profile", "net.py:build", *ALLOWED, "--data", "x.npz", "--max-images", "32", "--kwarg", "width=4"]
        assert main([*argv, "--transform", "[{resize: 6}]", "--rules", "activity.apoz"]) == 0
        printed = capsys.readouterr().out
        assert "32 of 120 of x.npz, 1 x 6 x 6" in printed
        assert "transform  resize 6" in printed
        assert lines(printed)["stem"][1].startswith("conv  4  6x6  ")

    def test_several_inputs_and_outputs(self, capsys):
        argv = ["profile", "net.py:two", *ALLOWED, "--data", "two.npz", "--inputs", "[left, right]"]
        assert main([*argv, "--head", "logits", "--rules", "stable_rank"]) == 0
        assert lines(capsys.readouterr().out)["fc"][1].startswith("head  3")
        assert main([*argv, "--head", "false", "--rules", "stable_rank"]) == 0
        assert lines(capsys.readouterr().out)["fc"][1].startswith("linear  3")

    def test_an_exported_program_needs_trust(self, capsys, project):
        names = {}
        exec(NET, names)  # noqa: S102 - the network above
        batch = {0: torch.export.Dim.DYNAMIC}
        program = torch.export.export(names["build"]().eval(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=(batch,))
        torch.export.save(program, project / "net.pt2")
        rules = "cnnaudit: 1\nmodel: net.pt2\ndata: x.npz\nrules: [{metric: branch_variance_share, min: -1}]\n"
        (project / "exported.audit.yaml").write_text(rules, encoding="utf-8")
        look = ["profile", "net.pt2", "--data", "x.npz", "--rules", "branch_variance_share"]
        for argv in look, ["check", "exported.audit.yaml"]:
            assert main(argv) == 2
            assert "add --trust-model" in capsys.readouterr().err
        assert main([*look, "--trust-model"]) == 0
        assert "branch_variance_share -0." in capsys.readouterr().out
        assert main(["check", "exported.audit.yaml", "--trust-model"]) == 0
        assert (
            "\nrun    an exported program, evaluation mode, float32 on cpu, logits of fc\n" in capsys.readouterr().out
        )
        assert main(["check", "exported.audit.yaml", "--trust-model", "--dry-run"]) == 0
        assert capsys.readouterr().out.endswith(
            "transform none: images go in as they are\ninputs    images; the first is 1 x 8 x 8\nlogits    fc\n"
        )


class TestWarnings:
    def test_random_weights_and_noise_are_said_loudly(self, capsys):
        data = "{load: synthetic, kwargs: {images: 4, size: 32}}"
        assert main(["profile", "torchvision:squeezenet1_1", "--data", data, "--rules", "stable_rank"]) == 0
        printed = capsys.readouterr().out
        warned = re.findall(r"^WARNING +(.*)$", printed, re.MULTILINE)
        assert [line.split(":")[0] for line in warned] == [
            "The weights are random",
            "The images are noise that was made up",
        ]
        assert "No `weights:`" not in printed  # it is said once

    def test_without_data_there_is_noise(self, capsys):
        argv = ["profile", "net.py:build", *ALLOWED, "--max-images", "2", "--rules", "stable_rank"]
        assert main(argv) == 0
        printed = capsys.readouterr().out
        assert "2 of 256 of synthetic, 1 x 224 x 224, no labels" in printed
        assert "The images are noise" in printed
        assert "The weights are random" not in printed  # nobody knows


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["resnet18"], "error: MODEL: 'resnet18' does not name a model; did you mean 'torchvision:resnet18'?"),
        (["net.py:build"], "error: net.py:build is code, and importing it is not allowed. If you trust it, add "
            "--allow-import 'net.py'"),
        (["no.py:build", *ALLOWED], "error: no.py:build: there is no file"),
        (["net.py:build", *ALLOWED, "--weights", "no.safetensors"], "error: weights no.safetensors: there is no file"),
        (["net.py:build", *ALLOWED, "--weights", "x.txt"], "error: --weights: 'x.txt' does not name weights"),
        (["net.py:build", *ALLOWED, "--data", "x.zip"], "error: --data: 'x.zip' does not name data"),
        (["net.py:build", *ALLOWED, "--rules", "activty"], "error: --rules: no metric is called 'activty'; did you"),
        (["net.py:build", *ALLOWED, "--transform", "[{resise: 3}]"], "error: --transform: unknown key 'resise'; did"),
        (["net.py:build", *ALLOWED, "--transform", "[{"], "error: --transform:1:"),
        (["net.py:build", *ALLOWED, "--data", "last.npz"], "The images are of shape (8, 8, 3), as if their channels"),
        (["net.py:two", *ALLOWED, "--data", "two.npz", "--inputs", "[left, right]", "--head", "x"],
            "error: head: x is none of the model's outputs; the outputs are maps, logits"),
        (["net.py:build", "--crop", "0"], "0 is not pixels a side, such as 224 or 192x256"),
        (["net.py:build", "--kwarg", "width"], "width is not NAME=VALUE, such as pretrained=true"),
        (["net.py:build", "--format", "text=x"], "text=x must be json=PATH"),
        (["net.py:build", "--format", "json=no/x.json"], "no/x.json cannot be written: there is no such folder"),
    ],
)  # fmt: skip
def test_messages(argv, message, capsys):
    assert main(["profile", *argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_the_documented_look_is_what_is_printed(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "first_look.md").read_text(encoding="utf-8")
    shown = re.findall(r"```console\n(.*?)```", page, re.DOTALL)[0]
    command, _, output = shown.replace("\\\n", "").partition("\n")
    assert main(shlex.split(command)[2:]) == 0
    printed = capsys.readouterr().out.splitlines()
    for line in output.splitlines():
        assert line in ("...", *printed) or line.startswith("run  ")


def test_help_needs_no_torch():
    code = "import sys; from cnnaudit.cli import main; main(['profile', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
