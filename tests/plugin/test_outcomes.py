"""What a rule came to decides what its test comes to, told in a few lines."""

from pathlib import Path

import pytest
from reading import junit, section, table

ROOT = Path(__file__).parents[2]
UNDECIDED = "  - {id: undecided, metric: activity.dead, estimand: population, at: conv2, max: 0}\n"


def test_the_five_outcomes_of_the_five_rules(project):
    assert project.outcomes() == {
        "net.audit.yaml::holds": "passed",
        "net.audit.yaml::fails": "failed",
        "net.audit.yaml::undecided": "failed",
        "net.audit.yaml::absent": "skipped",
        "net.audit.yaml::warns": "passed",
    }


def test_a_failure_says_where_what_and_against_which_bound(project):
    ran = project.run("net.audit.yaml::fails")
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    told = section(ran, "fails")
    assert told[0] == "net.audit.yaml:9: fails fails at 1 of 2 sites, 120 images"
    assert told[1].split() == ["site", "activity.dead", "interval", "bound", "failing"]
    assert told[2].split("  ")[1] == "conv2"
    assert " ".join(told[2].split()) == "conv2 1 [1, 1] max 0 1 of 6"
    assert told[3].startswith("  means Kernels that are exactly zero everywhere")
    assert told[4].startswith("  do    ")
    assert len(told) < 15
    assert "Traceback" not in ran.stdout.str()
    assert ".py" not in "\n".join(told)


def test_a_failure_at_many_sites_stays_short(project):
    project.write(
        "deep.py",
        "import torch\nfrom torch import nn\n\ndef build():\n    torch.manual_seed(0)\n    layers = []\n"
        "    for i in range(9):\n        layers += [nn.Conv2d(4 if i else 1, 4, 3, padding=1), nn.ReLU()]\n"
        "    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(400, 3))\n",
    )
    why = "A reason that goes on and on, as reasons do. " * 20
    rule = f"  - {{id: long, why: '{why}', metric: activity.dormant, min: 5}}\n"
    project.rules(rule, head=project.HEAD.replace("model.py", "deep.py"))
    ran = project.run()
    ran.assert_outcomes(failed=1)
    told = section(ran, "long")
    assert told[0] == "net.audit.yaml:5: long fails at 9 of 9 sites, 120 images"
    assert "  ... and 5 more" in told
    assert len(told) < 15
    assert max(map(len, told)) <= 100


def test_the_short_summary_starts_with_the_place(project):
    ran = project.run("net.audit.yaml::fails")
    assert (
        "FAILED net.audit.yaml::fails - Failed: net.audit.yaml:9: fails fails at 1 of 2 sites, 120 images"
        in ran.outlines
    )


def test_the_place_is_relative_to_where_pytest_was_started(project, monkeypatch):
    project.rules(project.FAILS, name="deep/net.audit.yaml", head=project.HEAD.replace(": model", ": ../model"))
    project.write("deep/data.npz", "")
    (project.path / "deep/data.npz").write_bytes((project.path / "data.npz").read_bytes())
    assert section(project.run("deep"), "fails")[0].startswith("deep/net.audit.yaml:5: fails ")
    monkeypatch.chdir(project.path / "deep")
    assert section(project.run("net.audit.yaml"), "fails")[0].startswith("net.audit.yaml:5: fails ")


def test_undecided_fails_and_says_how_many_images_would_decide(project):
    ran = project.run("net.audit.yaml::undecided")
    ran.assert_outcomes(failed=1)
    told = section(ran, "undecided")
    assert told[0] == "net.audit.yaml:12: undecided is undecided at 1 of 1 site, 120 images (about 299 needed)"
    assert "  do    Audit at least 299 images." in told
    assert "Traceback" not in ran.stdout.str()


def test_undecided_passes_where_the_file_says_so(project):
    project.rules(UNDECIDED, head=project.HEAD + "undecided: pass\n")
    ran = project.run()
    ran.assert_outcomes(passed=1)
    assert table(ran)[0].split()[0] == "UNDECIDED"


def test_not_applicable_is_skipped_with_its_reason_at_the_rules_line(project):
    ran = project.run("-rs", "net.audit.yaml::absent")
    ran.assert_outcomes(skipped=1)
    (told,) = [line for line in ran.outlines if line.startswith("SKIPPED")]
    assert told == (
        "SKIPPED [1] net.audit.yaml:17: The rule selects nothing: the network has no residual site that "
        "branch_variance_share could be measured at."
    )


def test_a_rule_that_must_not_be_absent_fails(project):
    project.rules("  - {id: absent, metric: branch_variance_share, min: 0.02}\n")
    ran = project.run()
    ran.assert_outcomes(failed=1)
    assert section(ran, "absent")[0].startswith("net.audit.yaml:5: absent could not be evaluated")


@pytest.mark.parametrize("severity", ["warning", "note"])
def test_a_failing_warning_passes_and_is_shown(project, severity):
    project.rules(f"  - {{id: warns, metric: activity.dead, max: 0, severity: {severity}}}\n")
    ran = project.run()
    ran.assert_outcomes(passed=1)
    assert ran.ret == 0
    assert table(ran)[0].startswith(f"FAIL ({severity})")


def test_a_warning_that_could_not_be_evaluated_fails_all_the_same(project):
    project.rules("  - {id: typo, metric: activity.dead, at: conv9, max: 0, severity: warning}\n")
    ran = project.run()
    ran.assert_outcomes(failed=1)
    assert section(ran, "typo")[0].startswith("net.audit.yaml:5: typo could not be evaluated")


@pytest.mark.parametrize(
    ("head", "told", "builds"),
    [
        ("model: model.py:build\nweights: lost.safetensors\n", "lost.safetensors", 1),
        ("model: model.py:build_raising\n", "building it raised OSError: the disk is on fire", 1),
        ("model: nowhere.py:build\n", "nowhere.py", 0),
        ("model: model.py:biuld\n", "has no 'biuld'", 0),
        ("model: {load: model.py:build, kwargs: {depth: 3}}\n", "TypeError", 0),
    ],
)
def test_a_model_that_cannot_be_had_fails_every_rule_and_is_tried_once(project, head, told, builds):
    project.rules(head=f"cnnaudit: 1\n{head}data: data.npz\n")
    ran = project.run("--tb=short")
    ran.assert_outcomes(failed=5)
    first = head.count("\n") + 4  # the line of the first rule
    messages = set()
    for rule, below in zip(("holds", "fails", "undecided", "absent", "warns"), (0, 4, 7, 12, 16), strict=True):
        lines = section(ran, rule)
        assert lines[0] == f"net.audit.yaml:{first + below}: {rule} could not be evaluated"
        messages.add("\n".join(lines[1:]))
    (message,) = messages
    assert told in message
    assert "Traceback" not in ran.stdout.str()
    assert "site-packages" not in message
    assert project.count("build") == builds


def test_data_that_cannot_be_had_fails_every_rule(project):
    project.rules(head=project.HEAD.replace("data.npz", "lost.npz"))
    ran = project.run()
    ran.assert_outcomes(failed=5)
    assert "lost.npz" in section(ran, "holds")[1]


def test_a_network_that_gives_nan_fails_as_an_error(project):
    project.rules(
        f"{project.HOLDS}  - {{id: warns, metric: activity.dormant, min: 0, severity: warning}}\n",
        head=project.HEAD.replace("build", "build_nan"),
    )
    ran = project.run()
    ran.assert_outcomes(failed=2)
    told = section(ran, "holds")
    assert told[0].startswith("net.audit.yaml:5: holds could not be evaluated at 1 of 1 site")
    assert "NaN" in "\n".join(told)
    assert table(ran)[0].split()[0] == "ERROR"


def test_a_value_that_is_0_by_0_is_undecided_and_says_so(project):
    # Maps that never vary have no entropy to lose.
    project.write(
        "flat.py",
        "import torch\nfrom torch import nn\n\ndef build():\n"
        "    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))\n"
        "    torch.nn.init.zeros_(model[0].weight)\n    return model\n",
    )
    rule = "  - {id: flat, metric: pool_entropy_loss, params: {levels: 2}, max: 0.5}\n"
    project.rules(rule, head=project.HEAD.replace("model.py", "flat.py"))
    ran = project.run("--junitxml=junit.xml")
    ran.assert_outcomes(failed=1)
    told = section(ran, "flat")
    assert told[0] == "net.audit.yaml:5: flat is undecided at 1 of 1 site, 120 images"
    assert "The value is 0 / 0 for some units" in "\n".join(told)
    assert "cnnaudit.value" not in junit(project.path / "junit.xml")["flat"][1]


def test_the_sound_example_passes_and_the_broken_one_fails_where_it_is_broken(project, monkeypatch):
    monkeypatch.chdir(ROOT)
    files = "examples/digits/digits.audit.yaml", "examples/digits/broken.audit.yaml"
    without = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    ran = project.run("-v", "-c", ROOT / "pyproject.toml", *without, *files)
    ran.assert_outcomes(passed=16, failed=4)
    failed = {line.split()[1] for line in ran.outlines if line.startswith("FAILED ")}
    assert failed == {
        f"examples/digits/broken.audit.yaml::{rule}"
        for rule in ("no-dead-kernels", "branches-contribute", "pools-keep-entropy", "pools-keep-active-values")
    }
    assert [line.split()[:3] for line in table(ran) if "warning" in line] == [
        ["FAIL", "(warning)", "broken.audit.yaml:49"]
    ]


def test_a_rule_that_only_measures_passes_and_is_told_with_its_number(project):
    project.rules(
        "  - {id: shown, metric: activity.apoz, at: conv1, severity: note}\n"
        "  - {id: pairs, metric: branch_variance_share, severity: note, if_absent: skip}\n"
    )
    assert project.outcomes() == {"net.audit.yaml::shown": "passed", "net.audit.yaml::pairs": "skipped"}
    ran = project.run("--junitxml=junit.xml")
    row, *_ = table(ran)
    outcome, place, rule, site, value, *interval = row.split()
    assert (outcome, place, rule, site) == ("MEASURED", "net.audit.yaml:5", "shown", "conv1")
    _, told = junit(project.path / "junit.xml")["shown"]
    assert float(told["cnnaudit.value"]) == pytest.approx(float(value), rel=1e-3)
    assert len(interval) == 2
    assert told["cnnaudit.outcome"] == "measured"
    assert not {"cnnaudit.bound", "cnnaudit.side"} & set(told)


def test_rules_of_a_pack_are_tests_like_any_other(project):
    project.rules(
        "  - {id: dead-kernels, at: conv2, severity: error, estimand: dataset}\n",
        head=project.HEAD + "extends: cnnaudit:recommended\nwithout: [class-information]\n",
    )
    assert project.outcomes() == {
        "net.audit.yaml::dead-kernels": "failed",
        "net.audit.yaml::duplicate-filters": "passed",
        "net.audit.yaml::dormant-kernels": "passed",
        "net.audit.yaml::pool-entropy-loss": "passed",
        "net.audit.yaml::pool-alternatives": "passed",
        "net.audit.yaml::branch-share": "skipped",
    }
    ran = project.run("--junitxml=junit.xml", "-k", "dead or dormant")
    # The file changes the one, so it stands there; the other one stands in the pack.
    assert section(ran, "dead-kernels")[0].startswith("net.audit.yaml:7: dead-kernels fails at 1 of 1 site")
    _, told = junit(project.path / "junit.xml")["dormant-kernels"]
    assert told["cnnaudit.file"] == "cnnaudit:recommended"
