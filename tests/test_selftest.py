"""The self-test holds here, says on what it was run, and can fail: of a broken estimator it names the case."""

import json
import math
import platform

import numpy as np
import pytest
import torch

from cnnaudit import information, selftest
from cnnaudit.cli import main
from cnnaudit.clock import today
from cnnaudit.errors import MetricError
from cnnaudit.result import Estimate
from cnnaudit.selftest import GROUPS, network
from cnnaudit.selftest.bench import Bench, Known, pictures
from cnnaudit.selftest.case import Case
from cnnaudit.version import __version__

pytestmark = pytest.mark.usefixtures("one_thread")

EVERY = [(group, case) for group, cases in GROUPS.items() for case in cases]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run of everything: exit code, what was printed, and the record."""
    path = tmp_path_factory.mktemp("record") / "selftest.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        code = main(["selftest", "--format", f"json={path}"])
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # and nothing else was written
    return code, json.loads(path.read_text(encoding="utf-8"))


def only(monkeypatch, group, *names):
    cases = tuple(case for case in GROUPS[group] if not names or case.name in names)
    monkeypatch.setattr(selftest, "GROUPS", {group: cases})


# --- it holds, and says where ------------------------------------------------------------------------------------


def test_every_case_holds_here(whole):
    code, record = whole
    assert record["not_ok"] == []
    assert (code, record["passed"], record["cases"]) == (0, True, len(EVERY))
    assert [(r["group"], r["name"]) for r in record["results"]] == [(group, case.name) for group, case in EVERY]


def test_it_takes_seconds(whole):
    assert sum(result["seconds"] for result in whole[1]["results"]) < 30


def test_the_record_tells_what_it_was_run_on(whole):
    machine = whole[1]["machine"]
    assert machine["cnnaudit"] == __version__
    assert (machine["torch"], machine["numpy"]) == (torch.__version__, np.__version__)
    assert (machine["python"], machine["platform"]) == (platform.python_version(), platform.platform())
    assert (machine["device"], machine["threads"], machine["date"]) == ("cpu", "1", str(today()))
    assert len(machine["code"].removeprefix("sha256 ")) == 64


def test_every_case_in_the_record_can_be_judged_by_its_reader(whole):
    for result in whole[1]["results"]:
        if isinstance(result["expected"], str):
            assert result["measured"] == result["expected"]
        elif "interval" in result["claim"]:
            assert result["low"] <= result["expected"] <= result["high"], result["name"]
        else:
            tolerance = float(result["claim"].removeprefix("within "))
            assert abs(result["measured"] - result["expected"]) <= tolerance, result["name"]


def test_cases_are_told_apart_and_say_where_they_come_from():
    names = [(group, case.name) for group, case in EVERY]
    assert len(set(names)) == len(names) >= 40
    for _, case in EVERY:
        assert case.what
        assert case.source
        assert case.tolerance <= 1e-6


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_cannot_be_used_is_no_finding(device, capsys):
    assert main(["selftest", "--device", device]) == 2
    assert f"--device {device}: it cannot be used" in capsys.readouterr().err


# --- it can fail -------------------------------------------------------------------------------------------------


def test_a_broken_estimator_is_named(monkeypatch, capsys):
    monkeypatch.setitem(information._ESTIMATORS, "chao_shen", information._plugin)
    only(monkeypatch, "information")
    assert main(["selftest"]) == 1
    out = capsys.readouterr().out
    assert "NOT OK  information: chao-shen" in out
    assert "expected  2.27711134" in out
    assert "measured  1.75" in out
    assert "1 of 17 cases do not hold on this machine: information: chao-shen." in out
    assert out.count("NOT OK  information") == 1


def test_a_broken_estimator_is_named_in_json(monkeypatch, capsys):
    monkeypatch.setattr(information, "_LN2", 1.0)  # nats for bits
    only(monkeypatch, "information", "die", "independence")
    assert main(["selftest", "--format", "json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["passed"], record["not_ok"]) == (False, ["information: die"])
    assert record["results"][0]["measured"] == pytest.approx(math.log(6))


def test_a_network_that_computes_something_else_is_named(monkeypatch, capsys):
    def model(self):
        known = Known()
        known.stem.weight.data[2] += 2**-20
        return known

    monkeypatch.setattr(Bench, "model", property(model))
    only(monkeypatch, "network", "logits", "FAIL")
    assert main(["selftest"]) == 1
    assert "this machine: network: logits." in capsys.readouterr().out


def test_what_is_raised_is_a_finding_and_the_others_run(monkeypatch, capsys):
    def refused(*_):
        raise MetricError("no entropy today\nnor tomorrow")

    monkeypatch.setattr(information, "entropy", refused)
    only(monkeypatch, "information", "die", "channel")
    assert main(["selftest", "-v"]) == 1
    out = capsys.readouterr().out
    assert "measured  MetricError: no entropy today\n" in out
    assert "ok      information: channel" in out


def estimate(value, low, high):
    return Estimate(value, low, high, "bits", 10, (value,), (low,), (high,), (0,))


@pytest.mark.parametrize(
    ("expected", "answer", "widest", "ok"),
    [
        (1, 1 + 5e-10, None, True),
        (1, 1 + 5e-9, None, False),
        (1, math.nan, None, False),
        (1, "1", None, False),
        ("pass", "pass", None, True),
        ("pass", "fail", None, False),
        (1, estimate(1.2, 0.9, 1.5), None, False),
        (1, estimate(1.2, 0.9, 1.5), 0.7, True),
        (1, estimate(1.2, 0.9, 1.5), 0.5, False),
        (1, estimate(1.2, 1.1, 1.3), 0.7, False),
        (1, estimate(1, math.nan, math.nan), 0.7, False),
        (1, 1.0, 0.7, False),
    ],
)
def test_a_case_holds_where_its_claim_does(expected, answer, widest, ok):
    case = Case("name", "what", "source", expected, lambda _: answer, widest=widest)
    assert case.run("group", Bench("cpu")).ok is ok


def test_numbers_that_do_not_exist_are_null_in_json(monkeypatch, capsys):
    monkeypatch.setattr(selftest, "GROUPS", {"group": (Case("nan", "what", "source", 1, lambda _: math.nan),)})
    assert main(["selftest", "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["results"][0]["measured"] is None


# --- the network that is known -----------------------------------------------------------------------------------


def test_half_of_every_picture_is_its_class():
    images, labels = pictures()
    assert images.shape == (64, 1, 8, 8)
    assert (images == 0).float().mean((1, 2, 3)).unique().tolist() == [0.5]
    assert torch.equal(images.amax((1, 2, 3)), (labels + 1) / 4)


def test_its_activations_are_as_told():
    images, labels = pictures()
    v = (labels + 1) / 4
    net = Known()
    stem = net.relu(net.stem(images))
    assert torch.equal(stem.amax((2, 3)), torch.stack([v, 0 * v, 2 * v, v / 2], 1))
    pooled = net.pool(stem)
    assert torch.equal(net.same(pooled), 2 * pooled)
    assert torch.equal(net.idle(pooled), pooled)
    assert torch.equal(net(images), torch.stack([2 * v, 0 * v, 4 * v, v], 1))


def test_the_expected_divergence_is_that_of_the_outputs():
    images, _ = pictures(4)
    logits = Known()(images).detach().double()
    p, q = (torch.softmax(factor * logits, 1) for factor in (1, 0.5))
    wanted = information.jensen_shannon(p, q).mean()
    assert network._divergence(0.5) == pytest.approx(float(wanted), abs=1e-12)
