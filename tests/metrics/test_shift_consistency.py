import pytest
import torch
from builders import make_site
from scipy import stats
from torch import nn

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.site import Altered, Op, Tap
from cnnaudit.statistics import draw_offsets

METRIC = registry()["shift_consistency"]


def logits(classes, count=3):
    """Logits that choose these classes."""
    return torch.nn.functional.one_hot(torch.tensor(classes), count).float()


def fields(first, second, labels, **facts):
    return {
        name: measure(f"shift_consistency.{name}", first, second, labels=torch.tensor(labels), **facts)
        for name in METRIC.fields
    }


def test_by_hand():
    found = fields(logits([0, 1, 2, 0]), logits([0, 1, 1, 1]), [0, 2, 2, 1])
    assert found["consistency"].value == 2 / 4
    assert found["accuracy"].value == (2 + 0 + 1 + 1) / 8


def test_the_interval_is_the_exact_binomial():
    first, second = logits([0] * 200), logits([0] * 180 + [1] * 20)
    found = fields(first, second, [0] * 200)
    exact = stats.binomtest(180, 200).proportion_ci(0.95, method="exact")
    consistency = found["consistency"]
    assert (consistency.value, consistency.low, consistency.high) == pytest.approx((0.9, exact.low, exact.high))
    assert found["accuracy"].value == pytest.approx(0.95)


def test_the_interval_of_the_accuracy_is_over_images():
    """Two crops of an image that are both wrong are one image that is wrong, not two."""
    first = logits([0] * 180 + [1] * 20)
    found = fields(first, first.clone(), [0] * 200)["accuracy"]
    exact = stats.binomtest(180, 200).proportion_ci(0.95, method="exact")
    assert (found.value, found.low, found.high) == pytest.approx((0.9, exact.low, exact.high))


def test_a_network_that_always_says_the_same_is_consistent():
    found = fields(logits([1] * 90), logits([1] * 90), [0, 1, 2] * 30)
    assert found["consistency"].value == 1
    assert found["consistency"].low == pytest.approx(0.025 ** (1 / 90))
    assert found["accuracy"].value == pytest.approx(1 / 3)
    assert METRIC.fields["consistency"].beside == "accuracy"


@pytest.mark.parametrize("seed", range(5))
def test_consistency_is_at_least_what_two_right_crops_force(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (60,), generator=generator)
    crops = [logits(labels.tolist()) * 2 + torch.randn(60, 3, generator=generator) for _ in range(2)]
    found = fields(*crops, labels.tolist())
    assert found["consistency"].value >= 2 * found["accuracy"].value - 1 - 1e-12
    assert found["consistency"].value == (crops[0].argmax(1) == crops[1].argmax(1)).double().mean()


def test_exchanging_the_crops_changes_nothing():
    first, second = logits([0, 1, 2, 0, 1]), logits([0, 1, 1, 1, 0])
    assert fields(first, second, [0, 2, 2, 1, 1]) == fields(second, first, [0, 2, 2, 1, 1])


def test_logits_of_one_position_are_logits():
    first, second = logits([0, 1, 2, 0]), logits([0, 1, 1, 1])
    maps = first[..., None, None], second[..., None, None]
    assert fields(*maps, [0, 2, 2, 1]) == fields(first, second, [0, 2, 2, 1])


def test_images_of_one_source_tell_no_more_than_one():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 3, (2, 80), generator=generator)
    crops = [logits(row.tolist()) for row in classes]
    labels = [0] * 80
    alone = fields(*crops, labels, sources=range(80))
    four = fields(*(x.repeat_interleave(4, 0) for x in crops), labels * 4, sources=[i // 4 for i in range(320)])
    for name, found in four.items():
        assert found.value == pytest.approx(alone[name].value)
        assert found.high - found.low == pytest.approx(alone[name].high - alone[name].low, rel=0.25)


def test_images_needed_and_what_is_read():
    assert METRIC.images(Need(None, "consistency", 10, 0.05, {})) == 100
    assert METRIC.variants(make_site(Op.HEAD), {}) == {
        tap: Altered("logits", of="image", by="crop", amount=(draw,)) for draw, tap in enumerate(("first", "second"))
    }


@pytest.mark.parametrize(
    ("shape", "reason"), [((1,), "one output"), ((3, 4, 4), "labels positions"), ((3,), None), ((3, 1, 1), None)]
)
def test_where_it_applies(shape, reason):
    site = make_site(Op.HEAD).with_taps({"output": Tap("", shape)})
    found = METRIC.applies(site, "consistency", {})
    assert (reason is None and found is None) or reason in found


def test_wrong_questions():
    with pytest.raises(MetricError, match="does not apply: the network has one output"):
        measure("shift_consistency", torch.zeros(9, 1), torch.zeros(9, 1), labels=torch.zeros(9, dtype=torch.int64))
    with pytest.raises(MetricError, match="needs labels"):
        measure("shift_consistency", logits([0]), logits([0]))


class Net(nn.Module):
    """Strided, so that classes depend on where the crop lies."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 6, 3, stride=4), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def test_an_audit_compares_two_random_crops():
    canvas = torch.randn(120, 1, 14, 15, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(120) % 3
    net = Net().eval()
    rules = [{"metric": f"shift_consistency.{name}"} for name in METRIC.fields]
    flow = cnnaudit.profile(net, {"images": canvas, "labels": labels}, rules=rules, crop=[10, 11], seed=7)
    crops = []
    for draw in range(2):
        moved = draw_offsets(torch.arange(120), 7, draw, (2, 2)) + 2
        parts = [x[:, y : y + 10, z : z + 11] for x, (y, z) in zip(canvas, moved.tolist(), strict=True)]
        with torch.no_grad():
            crops.append(net(torch.stack(parts)))
    wanted = fields(*crops, labels.tolist())
    assert 0 < wanted["consistency"].value < 1
    for name in METRIC.fields:
        (check,) = flow[f"shift_consistency.{name}"].checks
        assert flow[f"shift_consistency.{name}"][check.site.path].value == pytest.approx(wanted[name].value)
