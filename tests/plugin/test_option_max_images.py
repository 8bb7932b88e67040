"""``--cnnaudit-max-images``: how many images each audit reads at most."""

import json

import pytest
from reading import section

SAMPLED = "cnnaudit: 1\nmodel: model.py:build\ndata: data.npz\nsampling: {max_images: 110}\n"


def images(project, *args):
    project.run("--cnnaudit-report=json=report.json", "-k", "holds", *args).assert_outcomes(passed=1, deselected=4)
    return json.loads((project.path / "report.json").read_text(encoding="utf-8"))["data"]["n_images"]


@pytest.mark.parametrize(
    ("head", "args", "read"),
    [
        (None, [], 120),
        (None, ["--cnnaudit-max-images=105"], 105),
        (None, ["--cnnaudit-max-images", "5000"], 120),
        (SAMPLED, [], 110),
        (SAMPLED, ["--cnnaudit-max-images=105"], 105),
        (SAMPLED, ["--cnnaudit-max-images=115"], 110),
    ],
)
def test_the_smaller_of_the_files_and_the_options_number_is_read(project, head, args, read):
    project.rules(head=head or project.HEAD)
    assert images(project, *args) == read


def test_failures_and_the_first_lines_say_how_many(project):
    ran = project.run("--cnnaudit-max-images=105", "-k", "fails")
    assert section(ran, "fails")[0] == "net.audit.yaml:9: fails fails at 1 of 2 sites, 105 images"
    assert "cnnaudit: 1 rule of 1 file, at most 105 images" in ran.outlines


def test_too_few_images_leave_a_rule_undecided(project):
    ran = project.run("--cnnaudit-max-images=20", "-k", "holds")
    ran.assert_outcomes(failed=1, deselected=4)
    assert section(ran, "holds")[0].endswith("holds is undecided at 1 of 1 site, 20 images (about 100 needed)")


def test_live_data_given_to_check_is_cut_too(project):
    project.write(
        "test_net.py",
        "import torch\nfrom model import build\n\ndef test_net(cnnaudit):\n"
        "    rules = {'cnnaudit': 1, 'rules': [{'metric': 'activity.apoz', 'at': 'conv1', 'max': 1}]}\n"
        "    data = [(torch.rand(50, 1, 10, 10), torch.arange(50) % 3)] * 4\n"
        "    assert cnnaudit.check(rules, model=build(), data=data).data['n_images'] == 105\n",
    )
    project.run("test_net.py", "--cnnaudit-max-images=105").assert_outcomes(passed=1)


@pytest.mark.parametrize("written", ["0", "-1", "many", "1.5", "1e3", "", "²"])
def test_what_is_no_number_of_images_is_a_usage_error(project, written):
    ran = project.run(f"--cnnaudit-max-images={written}")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    assert "argument --cnnaudit-max-images: " in ran.stderr.str()
    assert f"'{written}' must be a number of images, at least 1" in ran.stderr.str()
    assert project.count("build") == 0
