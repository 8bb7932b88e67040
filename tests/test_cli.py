"""The command line from outside: what is printed, what is written, which code it exits with."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnnaudit.cli import main
from cnnaudit.metrics import registry
from cnnaudit.result import Report

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits"
SOUND, BROKEN = "examples/digits/digits.audit.yaml", "examples/digits/broken.audit.yaml"


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("CNNAUDIT_ALLOW_IMPORT", raising=False)


def spec(path: Path, rules: str, head: str = "") -> str:
    """Write a rule file about the sound digits network."""
    text = (
        f"cnnaudit: 1\nmodel: {DIGITS}/model.py:build\nweights: {DIGITS}/weights.safetensors\n"
        f"data: {DIGITS}/digits.npz\n{head}rules:\n{rules}"
    )
    path.write_text(text, encoding="utf-8")
    return str(path)


class TestExamples:
    def test_sound_network_passes(self, capsys, tmp_path):
        report = tmp_path / "report.json"
        assert main(["check", SOUND, "--format", "text", "--format", f"json={report}"]) == 0
        printed = capsys.readouterr().out
        assert "PASSED: 10 rules, 10 passed (exit 0)" in printed
        body = json.loads(report.read_text(encoding="utf-8"))
        assert body["schema_version"] == 1
        none = dict.fromkeys(("error", "fail", "measured", "not_applicable", "undecided", "waived"), 0)
        assert body["summary"]["rules"] == {**none, "pass": 10}
        assert body["data"]["n_images"] == 1200
        assert len(body["model"]["sha256"]) == len(body["data"]["sha256"]) == 64
        assert body["settings"]["confidence"] == 0.95
        dead = [v for v in body["verdicts"] if v["rule"] == "no-dead-kernels"]
        assert [v["site"] for v in dead if v["outcome"] == "pass"] == [
            "stem.conv",
            "stage1.block.conv1",
            "stage2.widen.conv1",
            "stage2.block.conv1",
            "stage3.block.conv1",
        ]
        assert {
            *("rule", "line", "severity", "metric", "field", "unit", "site", "outcome", "value", "low", "high"),
            *("bound", "n_images", "units", "why", "detail"),
        } <= set(dead[0])
        assert dead[0]["units"] == {"total": 16, "failing": 0, "undecided": 0}

    def test_broken_network_fails_where_it_is_broken(self, capsys, tmp_path):
        path = tmp_path / "report.json"
        assert main(["check", BROKEN, "--format", "text", "--format", f"json={path}"]) == 1
        printed = capsys.readouterr().out
        report = Report.from_json(path.read_text(encoding="utf-8"))
        failed = {(v.rule, v.site) for v in report.verdicts if v.outcome == "fail"}
        assert failed == {
            ("no-dead-kernels", "stage1.block.conv1"),
            ("branches-contribute", "stage2.block#add.0"),
            ("pools-keep-entropy", "pool1"),
            ("pools-keep-active-values", "pool1"),
            ("pools-make-maps-denser", "pool1"),
        }
        (dead,) = [v for v in report.verdicts if v.rule == "no-dead-kernels" and v.outcome == "fail"]
        assert sorted(kernel for kernel, *_ in dead.worst) == [1, 5, 9, 13]
        (branch,) = [v for v in report.verdicts if v.rule == "branches-contribute" and v.outcome == "fail"]
        assert (branch.value, branch.low, branch.high, branch.bound, branch.side) == (0.0, 0.0, 0.0, 0.02, "min")
        for rule, site in failed:
            assert f"FAIL  {rule}" in printed
            assert f"layer     {site}" in printed

    def test_json_on_stdout_is_only_json(self, capsys):
        assert main(["check", SOUND, "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["summary"]["passed"] is True

    def test_a_report_into_a_file_leaves_the_text_on_the_terminal(self, capsys, tmp_path):
        assert main(["check", SOUND, "--format", f"json={tmp_path / 'r.json'}"]) == 0
        assert "PASSED: 10 rules" in capsys.readouterr().out

    def test_installed_command(self):
        command = Path(sys.executable).parent / "cnnaudit"
        ran = subprocess.run([command, "check", BROKEN], capture_output=True, text=True, check=False)
        assert ran.returncode == 1
        assert "NOT PASSED: 10 rules, 5 passed, 5 failed (exit 1)" in ran.stdout
        assert ran.stderr == ""


class TestBlocks:
    def test_a_failure_says_everything(self, capsys, tmp_path):
        path = spec(tmp_path / "a.audit.yaml", "  - {metric: branch_variance_share, at: 'stage3.**', min: 0.9}\n")
        assert main(["check", path]) == 1
        blocks = capsys.readouterr().out.split("\n\n")
        (block,) = [b for b in blocks if b.startswith("FAIL")]
        lines = block.splitlines()
        assert [line.split()[0] for line in lines if not line.startswith("   ")] == [
            *("FAIL", "layer", "measured", "bound", "beside", "units", "images", "means", "do"),
        ]
        assert lines[0] == f"FAIL  branch_variance_share  {path}:6"
        assert lines[1] == "  layer     stage3.block#add.0 (residual)"
        assert lines[2].startswith("  measured  branch_variance_share.share = 0.4393 fraction, 95 % interval [0.4")
        assert lines[3] == "  bound     min 0.9"
        assert lines[4].startswith("  beside    skip_share 0.5607, standardised 0.4")
        assert "  images    304 read when look 1 of 3 decided" in lines

    def test_undecided_says_how_many_images_would_decide(self, capsys, tmp_path):
        rule = "  - {metric: branch_variance_share, at: 'stage3.**', min: 0.444}\n"
        assert main(["check", spec(tmp_path / "a.audit.yaml", rule)]) == 3
        printed = capsys.readouterr().out
        assert "UNDECIDED  branch_variance_share" in printed
        assert "means     The interval contains the bound" in printed
        needed = int(printed.split("1,200 read, about ")[1].split(" needed")[0].replace(",", ""))
        assert needed > 1200
        assert f"do        Audit about {needed:,} images" in printed
        assert main(["check", spec(tmp_path / "b.audit.yaml", rule, head="undecided: pass\n")]) == 0
        assert "1 undecided (exit 0)" in capsys.readouterr().out

    def test_too_few_images_says_how_many_are_needed(self, capsys, tmp_path):
        rule = "  - {metric: class_information, at: 'stage3.**', min: 0.1}\n"
        assert main(["check", spec(tmp_path / "a.audit.yaml", rule, head="sampling: {max_images: 96}\n")]) == 3
        printed = capsys.readouterr().out
        assert "images    96 read, about 400 needed" in printed
        assert "96 of 1,200 images" in printed

    def test_warnings_are_shown_and_do_not_decide(self, capsys, tmp_path):
        rule = "  - {metric: branch_variance_share, min: 0.9, severity: warning, why: Branches should dominate.}\n"
        assert main(["check", spec(tmp_path / "a.audit.yaml", rule)]) == 0
        printed = capsys.readouterr().out
        assert "FAIL  branch_variance_share  (warning)" in printed
        assert "  why       Branches should dominate." in printed
        assert (
            "  also      stage2.widen#add.0 (0.4937), stage2.block#add.0 (0.6562), stage1.block#add.0 (0.8111)"
            in printed
        )


class TestErrors:
    def test_rule_that_selects_nothing_names_near_misses_and_the_others_are_judged(self, capsys, tmp_path):
        rules = "  - {metric: pool_entropy_loss, at: pool9, max: 1}\n  - {metric: branch_variance_share, min: 0}\n"
        path = spec(tmp_path / "a.audit.yaml", rules)
        assert main(["check", path]) == 2
        printed = capsys.readouterr().out
        assert f"ERROR  pool_entropy_loss  {path}:6" in printed
        assert "at: 'pool9' matches no pool site" in printed
        assert "the network has 3, among them pool" in printed
        assert "PASS       branch_variance_share" in printed
        assert main(["check", path, "--dry-run"]) == 2
        assert f"{path}:6: rule 'pool_entropy_loss' selects nothing: at: 'pool9'" in capsys.readouterr().out

    def test_metric_that_applies_nowhere(self, capsys, tmp_path):
        rule = "  - {metric: activity.dead, at: '**.conv2', max: 0}\n"
        assert main(["check", spec(tmp_path / "a.audit.yaml", rule)]) == 2
        printed = capsys.readouterr().out
        assert "Nothing was measured: the metric applies at none of the 4 sites" in printed

    def test_code_is_not_imported_unless_allowed(self, capsys, tmp_path, monkeypatch):
        for name in ("model.py", "weights.safetensors", "digits.npz", "digits.audit.yaml"):
            shutil.copy(DIGITS / name, tmp_path)
        monkeypatch.chdir(tmp_path)
        assert main(["check", "digits.audit.yaml"]) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: model.py:build is code, and importing it is not allowed.")
        assert "--allow-import 'model.py'" in told
        assert main(["check", "digits.audit.yaml", "--allow-import", "model.py", "--dry-run"]) == 0
        monkeypatch.setenv("CNNAUDIT_ALLOW_IMPORT", "model.py")
        assert main(["check", "digits.audit.yaml", "--dry-run"]) == 0

    @pytest.mark.parametrize(
        ("argv", "told"),
        [
            (["check"], "Missing argument 'SPEC'"),
            (["check", "nowhere.yaml"], "File 'nowhere.yaml' does not exist"),
            (
                ["check", SOUND, "--format", "pdf"],
                "there is no format 'pdf'; there are github, gitlab, html, json, junit, markdown, sarif, text",
            ),
            (
                ["chek", SOUND],
                "there is no command 'chek'; there are check, diff, explain, init, judge, "
                "profile, schema, selftest, validate, waive",
            ),
            (["explain", "entropy"], "no metric is called 'entropy'"),
        ],
    )
    def test_usage(self, argv, told, capsys):
        assert main(argv) == 2
        assert told in capsys.readouterr().err

    def test_an_internal_fault_is_not_a_failed_rule(self, capsys, monkeypatch):
        monkeypatch.setattr("cnnaudit.pipeline.audit", lambda *args, **kwargs: 1 / 0)
        assert main(["check", SOUND]) == 2
        assert "ZeroDivisionError" in (told := capsys.readouterr().err)
        assert "this is a fault of cnnaudit itself" in told


class TestValidate:
    def test_five_mistakes_are_all_listed_with_their_lines(self, capsys, tmp_path):
        path = tmp_path / "five.audit.yaml"
        path.write_text(
            "cnnaudit: 1\n"
            "model: model.py\n"
            "rules:\n"
            "  - {metric: activity.ded, max: 0}\n"
            "  - {metric: pool_entropy_loss, maximum: 0.6}\n"
            '  - {metric: class_information, min: "0.1"}\n'
            "  - {metric: branch_variance_share, min: 0.02, share: 90}\n",
            encoding="utf-8",
        )
        assert main(["validate", str(path)]) == 2
        lines = capsys.readouterr().out.splitlines()
        assert [line.removeprefix(f"{path}:").split(":")[0] for line in lines] == ["2", "4", "5", "6", "7"]
        assert "did you mean 'dead'?" in lines[1]
        assert "did you mean 'max'?" in lines[2]
        assert "did you mean 0.9?" in lines[4]

    def test_several_files(self, capsys, tmp_path):
        wrong = tmp_path / "wrong.audit.yaml"
        wrong.write_text("cnnaudit: 2\n", encoding="utf-8")
        assert main(["validate", SOUND, str(wrong)]) == 2
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == f"{SOUND}: 10 rules, no mistakes"
        assert printed[1].startswith(f"{wrong}:1:11: ")
        assert main(["validate", SOUND, BROKEN]) == 0


class TestDryRun:
    def test_lists_sites_rules_memory_and_images(self, capsys):
        assert main(["check", SOUND, "--dry-run"]) == 0
        printed = capsys.readouterr().out
        (pool,) = [line for line in printed.splitlines() if line.startswith("pool1 ")]
        assert pool.split() == [
            *("pool1", "max", "pool", "16", "4x4", "2x2", "2x2", "8x8", "input", "output", "3,184", "8", "9", "10"),
        ]
        (rule,) = [line for line in printed.splitlines() if "late-kernels-tell-classes-apart" in line]
        assert rule.split() == ["3", "late-kernels-tell-classes-apart", "16", "min", "0.1", "2", "0", "400"]
        assert (
            "18 sites, 13 under a rule that judges; 1,200 images, looks at 304, 608, 1,200; statistics of 12.2 MiB, of"
            in printed
        )

    def test_reads_one_block(self, capsys, tmp_path):
        counting = tmp_path / "counted.py"
        counting.write_text(
            "import torch\n"
            "def batches():\n"
            "    for i in range(100):\n"
            "        assert i < 2, 'a second block was read'\n"
            "        yield torch.rand(16, 1, 8, 8), torch.randint(0, 10, (16,))\n",
            encoding="utf-8",
        )
        path = tmp_path / "a.audit.yaml"
        path.write_text(
            f"cnnaudit: 1\nmodel: {DIGITS}/model.py:build\ndata: {counting}:batches\n"
            "rules: [{metric: activity.dead, max: 0}]\n",
            encoding="utf-8",
        )
        argv = ["check", str(path), "--allow-import", str(counting), "--allow-import", "examples/**.py", "--dry-run"]
        assert main(argv) == 0
        assert "an unknown number of images" in capsys.readouterr().out


class TestExplain:
    def test_every_metric_and_field_is_listed(self, capsys):
        assert main(["explain"]) == 0
        printed = capsys.readouterr().out
        for metric in registry().values():
            for field in metric.fields:
                assert f"{metric.name}.{field}" in printed

    def test_the_whole_story_of_one(self, capsys):
        assert main(["explain", "activity.dead"]) == 0
        printed = capsys.readouterr().out
        for part in ("Definition.", "Unit and range.", "Estimator and bias.", "Interval.", "Pitfalls.", "rate"):
            assert part in printed


def test_schema_is_valid_json(capsys):
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert {"cnnaudit", "model", "data", "rules"} <= set(schema["properties"])


class TestPacks:
    def test_validate_tells_how_many_rules_are_taken_over(self, capsys, tmp_path):
        path = tmp_path / "x.audit.yaml"
        path.write_text("cnnaudit: 1\nextends: cnnaudit:residual\nwithout: [merge-loss]\n")
        assert main(["validate", str(path)]) == 0
        assert capsys.readouterr().out == f"{path}: 6 rules (6 taken over from cnnaudit:residual), no mistakes\n"

    def test_explain_tells_the_rules_of_a_pack_and_why_they_are_there(self, capsys):
        assert main(["explain", "cnnaudit:residual"]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("cnnaudit:residual, version 1: ")
        assert "\n\nidle-blocks: block_ablation.idle, max 0 (warning), op residual\n  A branch below" in printed
        assert "\n\nresidual-ratio: branch_variance_share.ratio, measured, not judged\n  Size of" in printed
        assert max(map(len, printed.splitlines())) <= 110

    def test_explain_names_the_packs_there_are(self, capsys):
        assert main(["explain"]) == 0
        assert "cnnaudit:deployment, cnnaudit:recommended, cnnaudit:residual" in capsys.readouterr().out
        assert main(["explain", "cnnaudit:recomended"]) == 2
        assert "did you mean 'cnnaudit:recommended'?" in capsys.readouterr().err

    def test_an_audit_takes_over_a_pack(self, capsys, tmp_path):
        head = "extends: cnnaudit:recommended\nwithout: [class-information, pool-entropy-loss]\n"
        rules = "  - {id: pool-alternatives, metric: pool_alternatives, severity: note, at: pool1}\n"
        path, report = spec(tmp_path / "x.audit.yaml", rules, head), tmp_path / "report.json"
        arguments = ["check", path, "--allow-import", f"{DIGITS}/*.py"]
        assert main([*arguments, "--dry-run"]) == 0
        printed = capsys.readouterr().out
        assert " cnnaudit:recommended:" in printed
        assert " measured only " in printed
        assert main([*arguments, "--format", "text", "--format", f"json={report}"]) == 0
        printed = capsys.readouterr().out
        assert "PASSED: 5 rules, 1 passed, 4 measured only (exit 0)" in printed
        found = Report.from_json(report.read_text(encoding="utf-8"))
        assert {v.rule for v in found.verdicts if v.outcome == "measured"} == {
            *("pool-alternatives", "duplicate-filters", "dormant-kernels", "branch-share")
        }
        assert [v.place for v in found.verdicts if v.rule == "pool-alternatives"] == ["pool1"]
        (base,) = found.spec["extends"]
        assert (base["name"], base["version"], found.spec["without"]) == (
            *("cnnaudit:recommended", 1),
            ["class-information", "pool-entropy-loss"],
        )
        assert "rules  extends cnnaudit:recommended (version 1), without class-information" in printed

    def test_where_nothing_is_judged_the_code_is_2(self, capsys, tmp_path):
        path = spec(tmp_path / "x.audit.yaml", "  - {metric: stable_rank, severity: note}\n")
        assert main(["check", path, "--allow-import", f"{DIGITS}/*.py"]) == 2
        assert "NOT PASSED: 1 rule, 1 measured only, nothing judged (exit 2)" in capsys.readouterr().out
