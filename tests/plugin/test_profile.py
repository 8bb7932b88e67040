"""``cnnaudit.profile`` in tests: what a failing assertion shows."""

import pytest

TEST = """
import pytest
import torch
from model import build, build_alive

import cnnaudit as package

DATA = torch.rand(120, 1, 10, 10, generator=torch.Generator().manual_seed(7)), torch.arange(120) % 3
RULES = ["activity", {{"id": "population", "metric": "activity.dead", "estimand": "population"}}]

@pytest.fixture(scope="module")
def dead():
    return package.profile(build(), DATA, rules=RULES)

def test_net(cnnaudit, dead):
    {body}
"""


@pytest.fixture
def profiled(project):
    """Run one test with a body; ``dead`` is the profile of the network with a dead kernel."""

    def run(body, *args):
        project.write("test_net.py", TEST.format(body=body))
        return project.run("test_net.py", *args)

    return run


def errors(ran):
    return [line.removeprefix("E").strip() for line in ran.outlines if line.startswith("E  ")]


def test_an_assertion_that_holds_passes(profiled):
    body = 'assert cnnaudit.profile(build_alive(), DATA, rules=["activity.dead"])["activity.dead"] <= 0'
    profiled(body).assert_outcomes(passed=1)


def test_a_failing_assertion_shows_sites_values_and_intervals(profiled):
    ran = profiled('flow = dead\n    assert flow["activity.dead"] <= 0')
    ran.assert_outcomes(failed=1)
    told = errors(ran)
    assert told[0] == "assert activity.dead <= 0: fails at 1 of 2 sites (120 images, 95 %)"
    header = ["site", "outcome", "value", "interval", "units", "failing"]
    assert header in [line.split() for line in told[1:3]]
    assert any(line.split() == ["conv2", "fail", "1", "[1,", "1]", "1", "of", "6"] for line in told)
    assert len(told) < 15


def test_a_bound_may_stand_on_the_left(profiled):
    told = errors(profiled('assert 0 >= dead["activity.dead"]'))
    assert told[0] == "assert activity.dead <= 0: fails at 1 of 2 sites (120 images, 95 %)"


def test_a_range_names_the_side_that_fails(profiled):
    told = errors(profiled('assert 0.99 <= dead["activity.apoz"].at("conv1") <= 1.0'))
    assert told[0].startswith("assert activity.apoz >= 0.99 at conv1: fails at 1 of 1 site")


@pytest.mark.parametrize("word", ["", "not "], ids=["assert", "assert not"])
def test_an_undecided_assertion_raises_with_the_number_of_images(profiled, word):
    ran = profiled(f'assert {word}dead["population"].at("conv2") <= 0')
    ran.assert_outcomes(failed=1)
    text = ran.stdout.str()
    assert "cnnaudit.errors.UndecidedError" in text
    assert "Audit at least 299 images." in text
    assert "AssertionError" not in text


def test_a_comparison_that_was_kept_aside_is_shown_when_it_fails(profiled):
    told = errors(profiled('kept = dead["activity.dead"] <= 0\n    assert kept'))
    assert "activity.dead <= 0: fails at 1 of 2 sites" in told[0]


def test_a_metric_that_was_not_measured_is_told_in_an_assertion_that_fails(profiled):
    told = errors(profiled('assert "pool_entropy_loss" in dead'))
    assert told[0].removeprefix("AssertionError: ").startswith("assert 'pool_entropy_loss' in <Flow of ")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('assert (dead["activity.dead"] <= 0) is None', "is None"),
        ('assert dead["activity.dead"] is None', "is None"),
        ("assert dead is None", "is None"),
        ("assert dead in []", "in []"),
        ('assert (dead["activity.dead"] <= 0) == 1', "== 1"),
    ],
)
def test_other_assertions_about_what_was_measured_fail_as_assertions(profiled, body, told):
    ran = profiled(body)
    ran.assert_outcomes(failed=1)
    assert errors(ran)[0].startswith(("assert", "AssertionError"))
    assert told in "\n".join(errors(ran))


def test_rules_model_and_data_may_come_from_a_file_beside_the_test(project):
    project.write(
        "deep/test_net.py", 'def test_net(cnnaudit):\n    cnnaudit.profile(rules="../net.audit.yaml")["holds"]\n'
    )
    project.run("deep").assert_outcomes(passed=1)


def test_model_and_data_may_come_from_fixtures(project):
    project.write(
        "test_net.py",
        "import pytest\nimport torch\nfrom model import build\n\n@pytest.fixture\ndef cnnaudit_data():\n"
        "    return torch.rand(120, 1, 10, 10), None\n\n@pytest.fixture\ndef model():\n    return build()\n\n"
        'def test_net(cnnaudit):\n    flow = cnnaudit.profile(rules="activity")\n    assert flow.n_images == 110\n'
        '    assert not flow["activity.dead"] <= 0\n    assert flow["activity.dead"].at("conv1") <= 0\n',
    )
    project.run("test_net.py", "--cnnaudit-max-images=110", "--cnnaudit-device=cpu").assert_outcomes(passed=1)


def test_without_a_model_the_message_says_which_fixture_to_write(profiled):
    ran = profiled("cnnaudit.profile(data=DATA)")
    assert "no fixture gives the model: name it in the rule file, or write a fixture" in ran.stdout.str()
    assert "cnnaudit_model() in conftest.py" in ran.stdout.str()
