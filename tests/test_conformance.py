"""What every metric there is must do, own or foreign: nothing here knows a metric by its name but its needs."""

import math
from contextlib import contextmanager
from functools import cache
from unittest import mock

import pytest
import torch
from torch import nn

import cnnaudit
from cnnaudit import Estimate, MetricError, Outcome, measure
from cnnaudit.graph import capture
from cnnaudit.metrics import registry
from cnnaudit.metrics.base import COSTS, Metric
from cnnaudit.site import PARAMETERS, Op
from cnnaudit.statistics import Parameters

NAMES = list(registry())
STREAMED = [name for name, metric in registry().items() if metric.reads is not Parameters]
FIELDS = [f"{name}.{field}" for name, metric in registry().items() for field in metric.fields]
COUNT = 60  # no more than what fixes any grid, so that the order of images decides none
SMALL = {  # where the defaults ask for more images than a quick test has
    "renyi_entropy": {"batch": 12},
    "renyi_information": {"batch": 12},
}
FACTS = {  # what a site knows and plain tensors do not tell
    "concat_share": {"inputs": (1, 3), "padding": 1},
    "convolution_information_loss": {"stride": 2, "padding": 1},
    "localisation_slope": {"margin": 2},
    "pool_alternatives.over_max": {"op": "avg"},
    "pool_gaussian_information_loss": {"op": "avg"},
    "pool_task_information_loss": {"macs_after": 1000},
    "pool_yield": {"macs_after": 1000},
}
SOURCES = [f"patient {i}" for i in range(COUNT)]
EVALUATED = {}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


LABELS = torch.arange(COUNT) % 3
MASKS = torch.rand(COUNT, 2, 8, 8, generator=generator(2)) < 0.3


def maps(channels=4, size=(4, 4), seed=1):
    """Rectified maps that tell the classes apart a little; every position is read of so small ones."""
    x = torch.randn(COUNT, channels, *size, generator=generator(seed))
    x[torch.arange(COUNT), LABELS] += 1.0
    return x.relu()


def tensors(metric, seed=1):
    if metric.reads is Parameters:
        weight = torch.randn(4, 3, 3, 3, generator=generator(seed))
        named = {"weight": weight, "gamma": weight[:, 0, 0, 0], "beta": weight[:, 1, 1, 1]}
        return [named[tap] for tap in metric.taps]
    required = metric.taps[: len(metric.taps) - len(metric.optional)]
    weight = torch.randn(4, 4, 3, 3, generator=generator(seed))
    size = () if metric.at == (Op.HEAD,) else (4, 4)
    if metric.name == "block_ablation":
        required = metric.taps  # without skip and branch one of its fields has no meaning
    return [weight if tap in PARAMETERS else maps(size=size, seed=seed + i) for i, tap in enumerate(required)]


def given(metric, **changed):
    facts = SMALL.get(metric.name, {}) | FACTS.get(metric.name, {})
    facts |= {"labels": LABELS} if metric.labels else {}
    facts |= {"masks": MASKS} if metric.masks else {}
    return facts | {name: value for name, value in changed.items() if name in facts or name == "sources"}


def measured(name, *changed, **facts):
    if changed or set(facts) - {"confidence"}:
        return _measured(name, *changed, **facts)
    return as_given(name, **facts)


@cache
def as_given(name, **confidence):
    """What many tests compare with, worked out once."""
    with evaluated_once(name, EVALUATED):
        return _measured(name, **confidence)


@contextmanager
def evaluated_once(name, kept):
    """A metric's fields, and every confidence, are read off one evaluation of the same maps."""

    def once(metric, *given):
        asked = metric.name, *FACTS.get(name, {}).items()
        if asked not in kept:
            kept[asked] = evaluate(metric, *given)
        return kept[asked]

    evaluate = Metric.evaluate
    with mock.patch.object(Metric, "evaluate", once):
        yield


def _measured(name, *changed, **facts):
    metric = registry()[name.partition(".")[0]]
    return measure(name, *(changed or tensors(metric)), **(given(metric) | FACTS.get(name, {}) | facts))


def alike(found, wanted, *, rel=1e-6, abs_=1e-7):
    for mine, others in ((found.units, wanted.units), (found.lows, wanted.lows), (found.highs, wanted.highs)):
        assert mine == pytest.approx(others, rel=rel, abs=abs_, nan_ok=True)


# --- estimates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_an_estimate_lines_up(name):
    found = measured(name)
    metric = registry()[name.partition(".")[0]]
    assert isinstance(found, Estimate)
    assert found.unit == metric.fields[name.partition(".")[2]].unit
    assert found.n_images == (0 if metric.reads is Parameters else COUNT)
    assert len(found.units) == len(found.lows) == len(found.highs) == len(found.kernels)
    assert any(math.isfinite(value) for value in found.units)
    assert not any(math.isinf(value) for value in found.units)
    for low, value, high in zip(found.lows, found.units, found.highs, strict=True):
        assert math.isnan(value) or low <= value <= high, (low, value, high)
    assert all(type(v) is float for v in (found.value, found.low, found.high, *found.units, *found.lows))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_field_is_the_default(name):
    alike(measured(name), measured(f"{name}.{next(iter(registry()[name].fields))}"), rel=0, abs_=0)


@pytest.mark.parametrize("name", FIELDS)
def test_more_confidence_is_a_wider_interval(name):
    narrow, wide = (measured(name, confidence=c) for c in (0.8, 0.99))
    assert wide.units == pytest.approx(narrow.units, nan_ok=True)
    for a, b, c, d in zip(wide.lows, narrow.lows, narrow.highs, wide.highs, strict=True):
        assert (a <= b <= c <= d) or math.isnan(a + b + c + d)


# --- laws -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMED)
def test_the_order_in_which_images_are_read_does_not_matter(name):
    """With sources that say what each image is; without them its place in the order decides groups and halves."""
    shuffled = torch.randperm(COUNT, generator=generator(5))
    with mock.patch.object(torch, "randperm", return_value=torch.arange(COUNT)):
        whole = measured(name, sources=SOURCES)
    with mock.patch.object(torch, "randperm", return_value=shuffled):
        alike(measured(name, sources=SOURCES), whole, rel=1e-5)


@pytest.mark.parametrize("name", STREAMED)
def test_how_many_images_are_read_at_once_does_not_matter(name):
    wanted = measured(name)
    for block in (1, 7, COUNT):
        alike(measured(name, block=block), wanted)


@pytest.mark.parametrize("name", STREAMED)
def test_the_layout_of_the_memory_and_gradients_do_not_matter(name):
    before = tensors(registry()[name])
    given_ = [_laid_out(x).clone().requires_grad_() for x in before]
    alike(measured(name, *given_), measured(name), rel=1e-4, abs_=1e-5)
    assert all(x.grad is None for x in given_)


def _laid_out(x):
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("name", NAMES)
def test_the_device_does_not_matter(name):
    on_gpu = [x.cuda() for x in tensors(registry()[name])]
    alike(measured(name, *on_gpu), measured(name), rel=1e-4, abs_=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_and_random_numbers_are_left_as_they_were(name):
    mine = tensors(registry()[name])
    before, state = [x.clone() for x in mine], torch.get_rng_state()
    alike(measured(name, *mine, seed=5), measured(name, *mine, seed=5), rel=0, abs_=0)
    assert all(torch.equal(x, b) for x, b in zip(mine, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


# --- input at the border --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 1.0, 1e30, -2.5])
@pytest.mark.parametrize("name", STREAMED)
def test_constant_maps_give_a_number_or_none(name, value):
    metric, kept = registry()[name], {}
    for field in (f"{name}.{field}" for field in metric.fields):
        try:
            with evaluated_once(field, kept):
                found = measured(field, *(torch.full_like(x, value) for x in tensors(metric)))
        except MetricError as error:
            assert "does not apply" in str(error)  # noqa: PT017 - either a number or this
            continue
        assert not any(math.isinf(unit) for unit in found.units)


@pytest.mark.parametrize("name", STREAMED)
def test_one_image_gives_no_certainty(name):
    metric = registry()[name]
    few = given(metric, labels=LABELS[:1], masks=MASKS[:1])
    first = next(iter(metric.fields))
    found = measure(f"{name}.{first}", *(x[:1] for x in tensors(metric)), **few)
    for low, value, high in zip(found.lows, found.units, found.highs, strict=True):
        assert not (math.isfinite(value) and low == high == value) or metric.fields[first].dataset


@pytest.mark.parametrize("name", STREAMED)
def test_no_image_is_refused(name):
    metric = registry()[name]
    with pytest.raises(MetricError, match="at least one image"):
        measure(name, *(x[:0] for x in tensors(metric)), **given(metric, labels=LABELS[:0], masks=MASKS[:0]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_is_refused(name, value):
    broken = [x.clone() for x in tensors(registry()[name])]
    broken[-1][3] = value
    with pytest.raises(MetricError, match=r"NaN or Inf|does not apply: responses here may be negative"):
        measured(name, *broken)


# --- what an audit makes of it --------------------------------------------------------------------------------


class Net(nn.Module):
    """A site of every op, maps so small that every position is read."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 1)
        self.mean = nn.AvgPool2d(2, 2, padding=1)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.down = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.squeeze = nn.Conv2d(4, 4, 1)
        self.fuse = nn.Conv2d(8, 8, 1)
        self.hidden, self.head = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.branch(x).relu()
        x = self.mean(self.pool(x))
        x = self.left(x).relu() + self.right(x).relu()
        x = self.down(nn.functional.interpolate(x, scale_factor=2)).relu()
        x = x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()
        x = self.fuse(torch.cat([x, x.tanh()], 1)).relu().mean((2, 3))
        return self.head(self.hidden(x).relu())


CANVAS = torch.rand(COUNT, 3, 8, 8, generator=generator(3)) + LABELS[:, None, None, None] / 3
IMAGES = CANVAS[..., 2:6, 2:6]
DATA = {"images": CANVAS, "labels": LABELS, "masks": MASKS}
CROP = {"crop": 4}


def rules(**keys):
    # A network may always say the same, so accuracy belongs to consistency.
    asked = [*NAMES, "shift_consistency.accuracy"]
    return [{"metric": name, "params": SMALL.get(name, {}), **keys} for name in asked]


@pytest.fixture(scope="module")
def flow():
    return cnnaudit.profile(Net(), DATA, rules=rules(if_absent="skip"), **CROP)


def test_every_metric_has_a_site_in_a_network_of_all_ops(flow):
    assert {site.op for site in flow.sites} == set(Op)
    assert set(flow) == {*NAMES, "shift_consistency.accuracy"}


@pytest.fixture(scope="module")
def ran():
    """The network, its graph, and the value of each node on all images."""
    net = Net().eval()
    graph = capture(net, IMAGES[:2])
    interpreter = torch.fx.Interpreter(graph.module, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(IMAGES)
    return net, graph, {node.name: value for node, value in interpreter.env.items()}


@pytest.mark.parametrize("name", NAMES)
def test_measure_equals_the_audit(flow, ran, name):
    metric = registry()[name]
    net, graph, values = ran
    # All fields come from one evaluation; of those that fit probes two are enough.
    fields = list(metric.fields)[: 2 if metric.cost_class == "heavy" else None]
    compared = 0
    for field in fields:
        selection = flow[f"{name}.{field}"]
        for check in selection.checks:
            if check.probe is None or any(tap.variant for tap in check.site.taps.values()):
                continue  # what other runs are compared with is tests/test_stream.py's
            site = check.site
            inputs = [
                _parameter(graph, net, site, tap) if tap in PARAMETERS else values[site.taps[tap].node]
                for tap in check.probe.taps
            ]
            if not _fits(metric, site, inputs):
                continue
            facts = given(metric, masks=MASKS[..., 2:6, 2:6]) | _facts(metric, site)
            facts["estimand"] = "dataset" if check.on_dataset else "population"
            found = measure(f"{name}.{field}", *inputs, **facts)
            # A value that differs in a last bit may fall into another level.
            alike(found, selection[site.path], rel=1e-4, abs_=1e-5)
            compared += 1
    assert compared >= len(fields) or metric.variants is not registry()["activity"].variants, name


def _facts(metric, site):
    """What the site knows, as plain tensors are told it."""
    facts = {"groups": site.groups, "rank": site.rank} if site.op in (Op.CONV, Op.LINEAR) else {}
    windows = {"kernel": site.kernel, "stride": site.stride, "padding": site.padding, "dilation": site.dilation}
    facts |= {"macs_after": site.macs_after} if "macs_after" in FACTS.get(metric.name, {}) else {}
    if site.op is Op.POOL and metric.taps[0] == "input":
        facts |= windows | {"op": site.operator}
    if site.op is Op.CONV and metric.reads is not Parameters and ("weight" in metric.taps or Op.POOL in metric.at[:1]):
        facts |= windows | {"op": "conv", "units": site.units}
    if metric.name == "convolution_loss":
        facts |= {k: v for k, v in windows.items() if k != "kernel"}
    if site.op is Op.CONCAT and "weight" in metric.taps:
        facts |= windows | {"inputs": (4, 4), "groups": site.groups}
    return facts


def _parameter(graph, net, site, name):
    if name != "weight":
        return {"gamma": net.norm.weight, "beta": net.norm.bias}[name]
    return graph.parameters(site)[name] if site.op is Op.CONCAT else net.get_submodule(site.path).weight


def _fits(metric, site, inputs):
    """Whether plain tensors can tell what the site is: measure takes rectified maps for such and others for signed."""
    tap = site.taps.get("response")
    if metric.reads is Parameters or tap is None:
        return True
    last = inputs[-1 - (metric.taps[-1] in PARAMETERS)]
    signed = "preactivation" not in metric.taps and bool((last < 0).any())
    return tap.atoms == (0.0,) and tap.nonnegative and not signed


@pytest.mark.parametrize("bound", ["min", "max"])
def test_a_dead_network_is_never_an_error_of_a_metric(bound):
    net = Net()
    for parameter in net.parameters():
        parameter.data.zero_()
    report = cnnaudit.audit({"cnnaudit": 1, "sampling": CROP, "rules": rules(**{bound: 0.5})}, model=net, data=DATA)
    assert {verdict.metric for verdict in report.verdicts} == set(NAMES)
    for verdict in report.verdicts:
        crashed = verdict.outcome is Outcome.ERROR and "applies at none" not in verdict.detail
        assert not crashed, (verdict.metric, verdict.site, verdict.detail)
        if verdict.value is not None and math.isnan(verdict.value):
            assert verdict.outcome is Outcome.UNDECIDED


def test_a_broken_network_is_an_error_at_every_metric():
    net = Net()
    for parameter in net.parameters():
        parameter.data[:] = math.nan
    report = cnnaudit.audit(
        {"cnnaudit": 1, "sampling": CROP, "rules": rules(max=0.5, if_absent="skip")}, model=net, data=DATA
    )
    judged = [verdict for verdict in report.verdicts if verdict.outcome is not Outcome.NOT_APPLICABLE]
    fine = {(v.metric, v.site) for v in judged if v.outcome is not Outcome.ERROR}
    assert not fine
    assert len(judged) > len(NAMES)


# --- words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_is_complete(name):
    metric = registry()[name]
    paragraphs = [part.strip() for part in metric.doc.split("\n\n")]
    assert metric.summary.endswith(".")
    for start in ("Definition.", "Unit and range.", "Estimator and bias.", "Interval.", "Pitfalls."):
        assert any(part.startswith(start) for part in paragraphs), start
    assert metric.cost_class in COSTS
    assert metric.cost.partition(": ")[2]
    assert metric.interval
    assert metric.version >= 1
    assert set(metric.identity) <= set(metric.params.model_fields)
    for field in metric.fields.values():
        assert field.unit
        assert field.summary
        assert field.better in ("", "higher", "lower")
        assert all(said[-1] in ".?" for said in (*field.low, *field.high))
    for unfinished in ("COVERAGE", "TODO", "FIXME", "[K]"):
        assert unfinished not in metric.doc


@pytest.mark.parametrize("name", NAMES)
def test_numbers_carry_the_identity_of_what_was_measured(name):
    metric = registry()[name]
    params = metric.params().model_dump()
    told = metric.identified(params)
    assert told.startswith(f"{name}/{metric.version}")
    assert all(f"{param}={params[param]}" in told for param in metric.identity)
