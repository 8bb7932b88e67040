"""A rule file to start from: it validates, it runs, and what it says of its bounds is so."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from cnnaudit.cli import main
from cnnaudit.cli.init import command

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = self.pool(x + self.conv2(torch.relu(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


build = Net


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.gate, self.out = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x))], 1)
        x = self.out(x) * torch.sigmoid(self.gate(x).mean((1, 2, 3), keepdim=True))
        return x.mean((2, 3))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A network with three checkpoints, and 160 images with labels."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "net.py").write_text(NET)
    images = np.random.default_rng(0).normal(size=(160, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "images.npz", images=images, labels=(images[:, 0, :4].mean((1, 2)) > 0).astype(np.int64))
    names: dict[str, object] = {}
    exec(NET, names)  # noqa: S102 - the text above
    for seed in range(3):
        torch.manual_seed(seed)
        save_file(names["Net"]().state_dict(), folder / f"good{seed}.safetensors")
    return folder


@pytest.fixture
def project(files, tmp_path, monkeypatch):
    """The current directory has them."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNNAUDIT_ALLOW_IMPORT", "net.py")


@pytest.fixture(scope="module")
def calibrated(files, tmp_path_factory):
    """What `init --good` writes from three checkpoints, made once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("calibrated")
        shutil.copytree(files, folder, dirs_exist_ok=True)
        patch.chdir(folder)
        good = [f"good{seed}.safetensors" for seed in range(3)]
        code = main(["init", "net.py:build", "--data", "images.npz", "--allow-import", "net.py", "--good", *good])
        assert code == 0
        return (folder / "net.audit.yaml").read_text()


def run(capsys, *args):
    code = main(list(args))
    told = capsys.readouterr()
    return code, told.out, told.err


def rules_of(path):
    return {rule["id"]: rule for rule in yaml.safe_load(Path(path).read_text())["rules"]}


class TestStarter:
    def test_it_validates_and_can_be_dry_run(self, project, capsys):
        code, out, _ = run(capsys, "init", "net.py:build", "--weights", "good0.safetensors", "--data", "images.npz")
        assert code == 0
        assert "wrote net.audit.yaml" in out
        assert "cnnaudit check net.audit.yaml --dry-run --allow-import 'net.py'" in out
        assert run(capsys, "validate", "net.audit.yaml")[0] == 0
        assert run(capsys, "check", "net.audit.yaml", "--dry-run")[0] == 0

    def test_what_is_commented_is_right_once_it_is_uncommented(self, project, capsys):
        run(capsys, "init", "net.py:build", "--weights", "good0.safetensors", "--data", "images.npz")
        text = Path("net.audit.yaml").read_text()
        Path("net.audit.yaml").write_text(re.sub(r"^  # ", "  ", text, flags=re.MULTILINE))
        assert len(rules_of("net.audit.yaml")) == text.count("- id:") == 9
        assert run(capsys, "check", "net.audit.yaml", "--dry-run")[0] == 0

    def test_every_kind_of_site_has_a_rule_and_no_other(self, project, capsys):
        _, text, _ = run(capsys, "init", "net.py:Joined", "--data", "images.npz", "-o", "-")
        assert "inputs-contribute" in text
        assert "gates-vary" in text
        assert "branches-contribute" not in text
        assert re.search(r"#\s+1 concat", text)

    def test_without_images_it_says_what_to_name(self, project, capsys):
        _, text, _ = run(capsys, "init", "net.py:build", "-o", "-")
        assert "data: synthetic" in text
        assert "Noise shows that the network runs and no more." in text
        assert "# weights:" in text
        assert "late-kernels-know-the-class" in text  # the user's images may have labels
        Path("from_stdout.audit.yaml").write_text(text)
        assert run(capsys, "validate", "from_stdout.audit.yaml")[0] == 0

    def test_it_says_what_must_be_allowed(self, project, capsys):
        _, text, _ = run(capsys, "init", "net.py:build", "-o", "-")
        assert '#   [tool.cnnaudit]\n#   allow-import = ["net.py"]' in text

    def test_paths_are_those_of_the_folder_that_the_file_is_in(self, project, capsys):
        Path("rules").mkdir()
        run(capsys, "init", "net.py:build", "--data", "images.npz", "-o", "rules/net.audit.yaml")
        written = yaml.safe_load(Path("rules/net.audit.yaml").read_text())
        assert written["model"] == "../net.py:build"
        assert written["data"] == "../images.npz"
        assert run(capsys, "check", "rules/net.audit.yaml", "--dry-run")[0] == 0

    def test_mappings_keep_what_is_beside_their_paths(self, project, capsys):
        Path("rules").mkdir()
        data = "{load: images.npz, max_corrupt: 0.5}"
        run(capsys, "init", "net.py:build", "--data", data, "-o", "rules/a.audit.yaml")
        written = yaml.safe_load(Path("rules/a.audit.yaml").read_text())
        assert written["data"] == {"load": "../images.npz", "max_corrupt": 0.5}

    def test_no_file_is_overwritten_unless_that_is_asked_for(self, project, capsys):
        Path("net.audit.yaml").write_text("mine")
        code, _, err = run(capsys, "init", "net.py:build")
        assert code == 2
        assert "net.audit.yaml exists" in err
        assert Path("net.audit.yaml").read_text() == "mine"
        assert run(capsys, "init", "net.py:build", "--force")[0] == 0

    def test_code_that_is_not_allowed_is_not_imported(self, project, capsys, monkeypatch):
        monkeypatch.delenv("CNNAUDIT_ALLOW_IMPORT")
        code, _, err = run(capsys, "init", "net.py:build")
        assert code == 2
        assert "--allow-import 'net.py'" in err
        assert not Path("net.audit.yaml").exists()


class TestCalibrated:
    def test_each_of_them_passes_at_once(self, calibrated, project, capsys):
        for i in range(3):
            Path("net.audit.yaml").write_text(calibrated.replace("weights: good0", f"weights: good{i}"))
            code, out, _ = run(capsys, "check", "net.audit.yaml")
            assert code == 0, out

    def test_it_says_where_bounds_come_from(self, calibrated):
        text = " ".join(calibrated.replace("\n#", " ").split())
        assert "from 3 checkpoints, on 160 images of images.npz" in text
        assert "False-alarm rate 5 % for the whole file" in text
        assert len(re.findall(r"good\d\.safetensors parameters sha256 [0-9a-f]{16}", text)) == 3
        for rule in re.split(r"\n  - id", calibrated)[:-1]:
            comment = rule[rule.rindex("# calibrated on") :]
            assert {"good", "bound"} <= set(re.findall(r"^  # (\w+) ", comment, flags=re.MULTILINE))

    def test_one_look_and_regressions(self, calibrated):
        file = yaml.safe_load(calibrated)
        assert file["sampling"] == {"looks": 1}
        assert file["weights"] == "good0.safetensors"
        judging = [rule for rule in file["rules"] if rule.get("severity") != "note"]
        assert any("max_regression" in rule for rule in judging)
        assert all({"min", "max", "max_regression"} & rule.keys() for rule in judging)

    def test_a_bound_that_says_nothing_is_a_note_with_the_reason(self, calibrated):
        rules = {rule["id"]: rule for rule in yaml.safe_load(calibrated)["rules"]}
        assert rules["branches-contribute"]["severity"] == "note"
        assert "end of the range" in calibrated


def test_one_checkpoint_speaks_of_other_images(project, capsys):
    code, text, _ = run(
        capsys,
        "init",
        "net.py:build",
        "--data",
        "images.npz",
        "--good",
        "good0.safetensors",
        "-o",
        "-",
        "--false-alarm=.1",
    )
    assert code == 0
    assert "ONE CHECKPOINT" in text
    assert "not of other trainings" in text
    assert not any("max_regression" in rule for rule in yaml.safe_load(text)["rules"])
    assert "False-alarm rate 10 %" in " ".join(text.replace("\n#", " ").split())
    Path("one.audit.yaml").write_text(text)
    assert run(capsys, "check", "one.audit.yaml")[0] == 0


@pytest.mark.parametrize(
    "args",
    [
        ["net.py:build", "--data=images.npz", "--good", "a.pt", "b.pt", "c.pt", "-o-"],
        ["net.py:build", "--good", "a.pt", "b.pt", "--data", "images.npz", "--good=c.pt", "-o-"],
        ["--good=a.pt", "net.py:build", "--data=images.npz", "--good=b.pt", "--good", "c.pt", "-o-"],
    ],
)
def test_good_may_be_repeated_or_take_several(args):
    found = command.make_context("init", args).params
    assert found["good"] == ("a.pt", "b.pt", "c.pt")
    assert (found["model"], found["data"]) == ("net.py:build", "images.npz")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--good", "good0.safetensors"], "--good needs --data"),
        (["--good", "good0.safetensors", "--data=images.npz", "--weights=good1.safetensors"], "takes the place of"),
        (["--good", "good0.safetensors", "none.safetensors", "--data=images.npz"], "no file none.safetensors"),
        (["--good", "good0.safetensors", "good0.safetensors", "--data=images.npz"], "holds the same weights"),
        (["--good", "good0.safetensors", "--data=images.npz", "--false-alarm=5"], "5"),
        (["-o", "nowhere/a.yaml"], "no such folder"),
    ],
)
def test_mistakes_are_told(project, capsys, args, told):
    code, _, err = run(capsys, "init", "net.py:build", *args)
    assert code == 2
    assert told in err
    assert not list(Path().glob("*.audit.yaml"))


def test_help_does_not_import_torch():
    code = "import sys; from cnnaudit.cli import main; main(['init', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
