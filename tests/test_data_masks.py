"""Rules on concept masks and dense labels, from the data to the verdict."""

import numpy as np
import pytest
import torch
from builders import make_rule, make_site, make_spec
from torch import nn
from torch.utils.data import Dataset

import cnnaudit
from cnnaudit import MetricError
from cnnaudit.plan import make_plan

COUNT = 160


def scenes(count=COUNT):
    """Dark images with one bright square and one dark one; classes: 0 ground, 1 bright, 2 dark, -1 a border."""
    generator = np.random.default_rng(0)
    images = generator.normal(0, 0.3, (count, 1, 16, 16)).astype(np.float32)
    labels = np.zeros((count, 16, 16), dtype=np.int64)
    for image, label in zip(images, labels, strict=True):
        for value, sign, left in ((1, 4, 1), (2, -4, 9)):
            at = slice(*(generator.integers(2, 10) + np.array([0, 4]))), slice(left, left + 4)
            image[0][at] += sign
            label[at] = value
    labels[:, 0] = -1
    return images, labels


class Segmenter(nn.Module):
    """Kernels that find bright and dark squares at half the size, and one that is off; one logit a class."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2, stride=2)
        self.norm = nn.Identity()
        self.head = nn.Conv2d(3, 3, 1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([0.25, -0.25, 0.0])[:, None, None, None].expand(3, 1, 2, 2))
            self.conv.bias.copy_(torch.tensor([-1.0, -1.0, -1.0]))
            self.head.weight.copy_(torch.eye(3)[[2, 0, 1]][..., None, None])
            self.head.bias.zero_()

    def forward(self, x):
        return self.up(self.head(torch.relu(self.conv(x))))


RULES = [
    {
        "id": "detectors",
        "why": "Each class is found by a kernel.",
        "metric": "iou",
        "at": "conv",
        "min": 0.04,
        "share": 0.6,
        "params": {"quantile": 0.06, "positions": 100},
    },
    {"id": "ranked", "why": "Likewise.", "metric": "position_auroc", "at": "conv", "min": 0.9, "share": 0.6},
    {"id": "all", "why": "Not so.", "metric": "position_auroc", "at": "conv", "min": 0.9},
]


def batches(images, labels, size=10):
    return [tuple(torch.from_numpy(x[i : i + size]) for x in (images, labels)) for i in range(0, COUNT, size)]


def audited(data, rules=RULES):
    spec = {"cnnaudit": 1, "rules": rules}
    if isinstance(data, dict) and "load" in data:
        spec["data"] = data
        data = None
    return cnnaudit.audit(spec, model=Segmenter().eval(), data=data)


def outcomes(report):
    return {verdict.rule: str(verdict.outcome) for verdict in report.verdicts}


class Samples(Dataset):
    def __len__(self):
        return COUNT

    def __getitem__(self, i):
        images, labels = scenes_once
        return {"image": torch.from_numpy(images[i]), "mask": labels[i]}


scenes_once = scenes()
WANTED = {"detectors": "pass", "ranked": "pass", "all": "fail"}


def test_an_npz_with_masks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels = scenes_once
    np.savez("data.npz", images=images, masks=labels.astype(np.int16))
    report = audited("data.npz")
    assert outcomes(report) == WANTED
    found = {verdict.rule: verdict for verdict in report.verdicts}
    assert found["detectors"].site == "conv"
    np.savez("named.npz", images=images, ground_truth=np.where(labels < 0, 255, labels).astype(np.uint8))
    again = audited({"load": "named.npz", "kwargs": {"masks": "ground_truth"}})
    assert outcomes(again) == WANTED
    assert again.data["sha256"] == report.data["sha256"]


GIVEN = {
    "mapping": lambda x, y: {"images": x, "masks": y},
    "pair of arrays": lambda x, y: (x, y),
    "pairs": batches,
    "dataset": lambda x, y: Samples(),
    "labels": lambda x, y: {"images": x, "labels": y},
    "concepts": lambda x, y: {"images": x, "masks": np.stack([y == 1, y == 2], 1)},
    "half the size": lambda x, y: {"images": x, "masks": y[:, ::2, ::2]},
}


@pytest.mark.parametrize("form", GIVEN)
def test_every_form_of_masks(form):
    assert outcomes(audited(GIVEN[form](*scenes_once))) == WANTED


def test_audit_and_measure_agree():
    images, labels = scenes_once
    rule = dict(RULES[1], id="one", reduce="mean", min=0.1)
    del rule["share"]
    (verdict,) = audited({"images": images, "masks": labels}, [rule]).verdicts
    model = Segmenter()
    maps = torch.relu(model.conv(torch.from_numpy(images))).detach()
    found = cnnaudit.measure("position_auroc", maps, masks=labels)
    # Positions are drawn by the site's name, but of 16 x 16 all are read.
    assert verdict.value == pytest.approx(found.value, abs=1e-6)
    assert found.units[0] > 0.95
    assert found.units[2] == pytest.approx(0.5)


def test_data_without_masks_is_told_before_a_batch_is_run():
    images, labels = scenes_once
    words = (
        r"rule 'detectors' measures iou, which needs masks, and the data has none: give the data a `masks` array or "
        r"have the iterable yield \(images, masks\)"
    )
    with pytest.raises(MetricError, match=words):
        audited((images, labels.max((1, 2))))


def test_a_rule_without_bound_may_be_skipped_where_there_are_no_masks():
    spec = make_spec(make_rule("iou", "best", if_absent="skip"))
    plan = make_plan(spec, [make_site()], classes=2, labelled=True, n_images=100)
    assert plan.checks == ()
    assert plan.absent[0][1] == "iou needs masks, and the data has none"


def test_memory_is_planned_by_concepts_where_they_are_what_is_counted():
    spec = make_spec(make_rule("iou", "best", params={"quantile": 0.1}), make_rule("class_auroc", "best"))
    sites = [make_site()]
    sizes = {
        (classes, concepts): make_plan(
            spec, sites, classes=classes, concepts=concepts, labelled=True, masked=True, n_images=100
        ).bytes
        for classes in (10, 20)
        for concepts in (5, 50)
    }
    assert sizes[20, 5] - sizes[10, 5] == sizes[20, 50] - sizes[10, 50] > 0
    assert sizes[10, 50] - sizes[10, 5] == 16 * 45 * (3 * 64 * 4 + 16)
