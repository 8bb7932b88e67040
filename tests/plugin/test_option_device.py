"""``--cnnaudit-device``: where audited models run."""

import json

import pytest
from reading import section

RULES = """rules:
  - {id: holds, metric: activity.apoz, at: conv1, max: 0.99}
"""
LIVE = """
import pytest
from model import build

@pytest.fixture(scope="session")
def cnnaudit_model():
    model = build()
    yield model
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    print("still on the cpu")
"""


def live(project):
    project.rules(RULES, head="cnnaudit: 1\ndata: data.npz\n")
    project.write("conftest.py", LIVE)


def test_the_report_says_where_the_model_ran(project):
    ran = project.run("--cnnaudit-device=cpu", "--cnnaudit-report=json=report.json", "-k", "holds")
    ran.assert_outcomes(passed=1, deselected=4)
    assert json.loads((project.path / "report.json").read_text(encoding="utf-8"))["settings"]["device"] == "cpu"
    assert "cnnaudit: 1 rule of 1 file, on cpu" in ran.outlines


def test_a_live_model_runs_there_and_comes_back(project):
    live(project)
    ran = project.run("--cnnaudit-device=cpu", "-s")
    ran.assert_outcomes(passed=1)
    assert "still on the cpu" in ran.stdout.str()


@pytest.mark.parametrize("device", ["nope", "cuda:99", "cpu:"])
def test_a_device_that_is_not_there_fails_every_rule_in_a_line(project, device):
    ran = project.run(f"--cnnaudit-device={device}", "--tb=short")
    ran.assert_outcomes(failed=5)
    assert f"  device '{device}' cannot be used (" in "\n".join(section(ran, "holds"))
    assert "Traceback" not in ran.stdout.str()
    assert project.count("build") == 1


def test_a_device_that_is_not_there_leaves_a_live_model_where_it_was(project):
    live(project)
    ran = project.run("--cnnaudit-device=nope", "-s")
    ran.assert_outcomes(failed=1)
    assert "device 'nope' cannot be used (" in ran.stdout.str()
    assert "still on the cpu" in ran.stdout.str()


def test_a_model_given_to_check_runs_there_too(project):
    project.write(
        "test_net.py",
        "from model import build\n\ndef test_net(cnnaudit):\n"
        "    rules = {'cnnaudit': 1, 'rules': [{'metric': 'activity.apoz', 'at': 'conv1', 'max': 0.99}]}\n"
        "    report = cnnaudit.check(rules, model=build(), data='data.npz')\n"
        "    assert report.settings['device'] == 'cpu'\n",
    )
    project.run("test_net.py", "--cnnaudit-device=cpu").assert_outcomes(passed=1)
    ran = project.run("test_net.py", "--cnnaudit-device=nope")
    ran.assert_outcomes(failed=1)
    assert "device 'nope' cannot be used (" in ran.stdout.str()


def test_what_is_no_model_is_told_with_a_device_as_without(project):
    live(project)
    project.write(
        "conftest.py", LIVE.replace("model = build()\n    yield model", "return 3").partition("    assert")[0]
    )
    ran = project.run("--cnnaudit-device=cpu")
    ran.assert_outcomes(failed=1)
    assert "model: a int from Python, not a torch.nn.Module or text" in ran.stdout.str()
    assert "AttributeError" not in ran.stdout.str()
