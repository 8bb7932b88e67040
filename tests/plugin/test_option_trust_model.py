"""``--cnnaudit-trust-model``: whether exported programs may be loaded."""

import torch

RULES = """rules:
  - {id: holds, metric: activity.apoz, at: conv1, max: 0.99}
"""


def test_a_program_is_loaded_only_with_leave(project):
    names = {"__name__": "model"}
    exec((project.path / "model.py").read_text(encoding="utf-8"), names)  # noqa: S102 - the project's own network
    batch = {0: torch.export.Dim.DYNAMIC}
    model = names["Net"](noted=False).eval()
    program = torch.export.export(model, (torch.rand(2, 1, 10, 10),), dynamic_shapes=(batch,))
    torch.export.save(program, project.path / "net.pt2")
    project.rules(RULES, head="cnnaudit: 1\nmodel: net.pt2\ndata: data.npz\n")
    ran = project.run()
    ran.assert_outcomes(failed=1)
    assert "add --trust-model" in ran.stdout.str()
    project.run("--cnnaudit-trust-model").assert_outcomes(passed=1)


def test_what_lies_below_rootdir_may_be_read(project):
    below = project.path / "rules"
    below.mkdir()
    (below / "net.audit.yaml").write_text(
        "cnnaudit: 1\nmodel: ../model.py:build\ndata: ../data.npz\n" + RULES, encoding="utf-8"
    )
    project.run(str(below / "net.audit.yaml"), "--rootdir", str(project.path)).assert_outcomes(passed=1)
