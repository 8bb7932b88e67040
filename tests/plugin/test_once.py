"""However many rules a file has, and wherever they run: one pass over the data."""

import json
import tempfile
from pathlib import Path


def metrics(project, *args):
    """The metrics that a run measured."""
    project.run("--cnnaudit-report=json=report.json", *args)
    return json.loads((project.path / "report.json").read_text(encoding="utf-8"))["settings"]["metrics"]


def test_five_rules_are_one_pass(project):
    project.run().assert_outcomes(passed=2, failed=2, skipped=1)
    assert (project.count("build"), project.count("forward")) == (1, 1)


def test_two_files_are_two_passes(project):
    project.rules(name="other.audit.yaml")
    project.run().assert_outcomes(passed=4, failed=4, skipped=2)
    assert (project.count("build"), project.count("forward")) == (2, 2)


def test_rules_spread_over_two_workers_are_one_pass_a_file(project):
    project.rules(name="other.audit.yaml")
    ran = project.run_apart("-n", "2", "--dist", "load", "-v")
    ran.assert_outcomes(passed=4, failed=4, skipped=2)
    assert (project.count("build"), project.count("forward")) == (2, 2)
    for file in ("net.audit.yaml::", "other.audit.yaml::"):
        assert {line.split()[0] for line in ran.outlines if file in line and line.startswith("[gw")} == {
            "[gw0]",
            "[gw1]",
        }


def test_a_file_on_one_worker_is_one_pass_of_that_worker(project):
    ran = project.run_apart("-n", "2", "--dist", "loadfile", "-v")
    ran.assert_outcomes(passed=2, failed=2, skipped=1)
    assert (project.count("build"), project.count("forward")) == (1, 1)
    assert len({line.split()[0] for line in ran.outlines if line.startswith("[gw")}) == 1


def test_files_of_the_same_content_in_two_folders_are_two_audits(project):
    for folder in ("a", "b"):
        project.rules(project.FAILS, name=f"{folder}/net.audit.yaml")
        project.write(f"{folder}/model.py", (project.path / "model.py").read_text(encoding="utf-8"))
        (project.path / folder / "data.npz").write_bytes((project.path / "data.npz").read_bytes())
    project.write("b/model.py", (project.path / "b/model.py").read_text(encoding="utf-8").replace("-100.0", "1.0"))
    assert project.outcomes("a", "b") == {"a/net.audit.yaml::fails": "failed", "b/net.audit.yaml::fails": "passed"}


def test_only_what_the_selected_rules_need_is_measured(project):
    assert metrics(project, "-k", "holds") == ["activity/2"]
    assert metrics(project, "-k", "holds or absent") == ["activity/2"]
    assert json.loads((project.path / "report.json").read_text(encoding="utf-8"))["spec"]["rules"] == [
        "holds",
        "absent",
    ]


def test_a_rule_that_is_not_selected_asks_for_no_labels(project):
    project.rules(
        f"{project.HOLDS}  - {{id: labels, metric: class_information, min: 0.1}}\n",
        head=project.HEAD.replace("data.npz", "unlabelled.py:build"),
    )
    project.write(
        "unlabelled.py",
        "import torch\n\ndef build():\n    torch.manual_seed(0)\n    return [torch.rand(120, 1, 10, 10)]\n",
    )
    assert project.outcomes("-k", "holds") == {"net.audit.yaml::holds": "passed"}
    assert project.outcomes("-k", "labels") == {"net.audit.yaml::labels": "failed"}


def test_the_data_is_read_once(project):
    project.write(
        "data.py",
        "import torch\nfrom model import note\n\ndef build():\n    torch.manual_seed(7)\n"
        "    x, y = torch.rand(120, 1, 10, 10), torch.arange(120) % 3\n    def read():\n"
        "        for i in range(0, 120, 20):\n            note('.batch')\n"
        "            yield x[i : i + 20], y[i : i + 20]\n"
        "    return read()\n",
    )
    project.write("conftest.py", "")
    project.rules(head=project.HEAD.replace("data.npz", "data.py:build"))
    project.run("-rA").assert_outcomes(passed=2, failed=2, skipped=1)
    assert project.count("batch") == 6


def test_a_new_session_audits_again(project):
    project.run("-k", "holds")
    project.run("-k", "holds")
    assert project.count("build") == 2


def test_rules_that_are_all_deselected_or_only_listed_build_no_model(project):
    project.run("--co")
    project.run("-k", "nothing")
    assert project.count("build") == 0


def test_a_session_leaves_no_files_behind(project, monkeypatch):
    folder = project.path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    project.run().assert_outcomes(passed=2, failed=2, skipped=1)
    assert list(folder.glob("cnnaudit-*")) == []


def test_workers_leave_no_files_behind_and_pass_on_failures_to_load(project, monkeypatch):
    folder = project.path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    project.rules(head=project.HEAD.replace("build", "build_raising"))
    ran = project.run_apart("-n", "2")
    ran.assert_outcomes(failed=5)
    assert ran.stdout.str().count("building it raised OSError: the disk is on fire") >= 5
    assert project.count("build") == 1
    assert [path for path in Path(folder).rglob("*") if "cnnaudit" in path.name] == []
