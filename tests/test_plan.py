"""Rules and sites become checks; equal probes are shared; memory is kept."""

from types import MappingProxyType

import pytest
from builders import make_pool, make_rule, make_site, make_spec

from cnnaudit.errors import MetricError
from cnnaudit.metrics import registry
from cnnaudit.plan import make_plan
from cnnaudit.site import Op
from cnnaudit.spec import Slices
from cnnaudit.spec.model import Sampling


def rule(metric, field=None, **facts):
    entry = registry()[metric]
    params = dict(entry.params()) | facts.pop("params", {})
    return make_rule(metric, field or next(iter(entry.fields)), params=params, **facts)


def plan_of(rules, sites, *, classes=10, n_images=800, labelled=True, data=MappingProxyType({}), **sampling):
    spec = make_spec(*rules)
    object.__setattr__(spec, "sampling", Sampling(**sampling))
    return make_plan(spec, sites, classes=classes, labelled=labelled, n_images=n_images, **data)


CONV = make_site(path="layer1.conv", units=8, taps=("input", "output", "response"))
SIGNED = make_site(
    path="layer1.linear_conv", units=8, taps=("input", "output", "response"), atoms=(), nonnegative=False
)
DOWN = make_site(
    path="down",
    taps=("input", "output", "response"),
    units=8,
    kernel=3,
    stride=2,
    padding=1,
    dilation=1,
    downsamples=True,
)
POOL = make_pool((8, 8), units=8, path="pool")
SITES = (CONV, SIGNED, DOWN, POOL)


def test_a_metric_is_planned_at_the_sites_of_its_ops():
    plan = plan_of([rule("activity", "dead", max=0.0)], SITES)
    assert [(c.site.path, c.probe is not None) for c in plan.checks] == [
        ("layer1.conv", True),
        ("layer1.linear_conv", False),
        ("down", True),
    ]
    assert "no activation here makes exact zeros" in plan.checks[1].reason


def test_strided_convolutions_count_as_downsampling_and_others_do_not():
    plan = plan_of([rule("pool_information_dimension_loss", max=1.0)], SITES)
    assert [c.site.path for c in plan.checks] == ["down", "pool"]
    plan = plan_of([rule("pool_information_dimension_loss", max=1.0, op=Op.POOL)], SITES)
    assert [c.site.path for c in plan.checks] == ["pool"]


def test_globs_select():
    plan = plan_of([rule("activity", "dead", max=0.0, at=("layer1.c*", "down"))], SITES)
    assert [c.site.path for c in plan.checks] == ["layer1.conv", "down"]


def test_rules_with_the_same_reading_share_a_probe():
    rules = [
        rule("pool_entropy_loss", "relative", max=0.5, id="a"),
        rule("pool_entropy_loss", "bits", max=3.0, id="b", params={"estimator": "grassberger"}),
        rule("pool_entropy_loss", "relative", max=0.5, id="c", params={"levels": 4}),
    ]
    plan = plan_of(rules, SITES)
    assert len(plan.checks) == 3
    assert plan.checks[0].probe is not None
    assert plan.checks[0].probe == plan.checks[1].probe
    assert plan.checks[0].probe != plan.checks[2].probe
    assert len(plan.probes) == 2


@pytest.mark.parametrize(("n_images", "groups"), [(1, 1), (16, 16), (64, 64), (5000, 64), (None, 64)])
def test_groups(n_images, groups):
    assert plan_of([rule("activity", "dead", max=0.0)], SITES, n_images=n_images).groups == groups


def test_sources_are_dealt_to_as_many_groups_as_there_are():
    plan = plan_of([rule("activity", "dead", max=0.0)], SITES, n_images=20, data={"clustered": True})
    assert plan.groups == 64
    assert all(probe.clustered for probe in plan.probes)


def test_sources_and_slices_take_memory():
    rules = [rule("class_information", min=0.0)]
    plain, sources = (plan_of(rules, SITES, n_images=5000, data={"clustered": c}) for c in (False, True))
    assert sources.bytes == 64 * plain.bytes
    sliced = [rule("class_information", min=0.0, by=Slices("scanner", 100))]
    known = {"values": {"scanner": ["a", "b", "c"]}}
    assert plan_of(sliced, SITES, n_images=5000, data=known).bytes == 3 * plain.bytes
    assert plan_of(sliced, SITES, n_images=5000).bytes == 8 * plain.bytes  # where only reading tells
    assert plan_of(sliced, SITES, n_images=5000).probes[0].by == "scanner"


def test_classes_are_not_compared_in_slices_of_one_class():
    rules = [
        rule("class_information", min=0.0, by=Slices("labels", 100), at=("layer1.conv",)),
        rule("activity", "dead", max=0.0, by=Slices("labels", 100), at=("layer1.conv",)),
    ]
    classes, dead = plan_of(rules, SITES).checks
    assert classes.reason == "it compares classes, and a slice by labels has only one"
    assert dead.probe.by == "labels"


def test_rule_that_selects_nothing_names_near_misses():
    rules = [
        rule("pool_entropy_loss", max=1.0, at=("layer1.**",), id="elsewhere"),
        rule("branch_variance_share", min=0.0, id="nowhere"),
        rule("activity", "dead", max=0.0, at=("layr1.conv",), id="typo", if_absent="skip"),
    ]
    plan = plan_of(rules, SITES)
    assert not plan.checks
    told = {found.id: message for found, message in plan.absent}
    assert told["elsewhere"] == (
        "at: 'layer1.**' matches no pool site (it matches layer1.conv, of op conv); the network has 1, among them pool"
    )
    assert told["nowhere"] == "the network has no residual site that branch_variance_share could be measured at"
    assert told["typo"].startswith("at: 'layr1.conv' matches no conv site; the network has 3, among them layer1.conv")
    assert [found.id for found in plan.absent_errors] == ["elsewhere", "nowhere"]


def test_labels_are_asked_for_before_a_batch_is_read():
    with pytest.raises(
        MetricError, match=r"rules from Python:3: rule 'rule' measures class_information, which needs labels"
    ):
        plan_of([rule("class_information", min=0.1)], SITES, labelled=False)


def test_images_needed():
    rules = [
        rule("activity", "dead", max=0.0, id="dataset"),
        rule("activity", "dead", max=0.0, id="population", estimand="population"),
        rule("class_information", min=0.1, id="labels"),
    ]
    plan = plan_of(rules, [CONV])
    # 299 = ceil(log .05 / log .99): so many silent images show at 95 % that fewer than 1 % activate the kernel.
    assert [check.images(10, 0.05) for check in plan.checks] == [1, 299, 400]


class TestMemory:
    RULES = (rule("class_information", min=0.1),)

    def test_bytes_are_those_of_the_tallies(self):
        # 3 sites x 8 kernels x 10 classes x 8 bins x 4 bytes
        assert plan_of(self.RULES, SITES).bytes == 3 * 8 * 10 * 8 * 4

    def test_kernels_are_sampled_where_the_budget_does_not_reach(self):
        plan = plan_of(self.RULES, SITES, max_memory=3 * 5 * 320 + 319)
        assert [len(probe.kernels) for probe in plan.probes] == [5, 5, 5]
        assert plan.bytes == 3 * 5 * 320
        again = plan_of(self.RULES, SITES, max_memory=3 * 5 * 320 + 319)
        assert [p.kernels for p in again.probes] == [p.kernels for p in plan.probes]
        other = plan_of(self.RULES, SITES, max_memory=3 * 5 * 320 + 319, seed=1)
        assert [p.kernels for p in other.probes] != [p.kernels for p in plan.probes]

    def test_small_sites_keep_all_their_kernels(self):
        small = make_site(path="small", units=2, taps=("input", "output", "response"))
        plan = plan_of(self.RULES, (CONV, small), max_memory=6 * 320)
        assert [probe.kernels and len(probe.kernels) for probe in plan.probes] == [4, None]

    def test_a_budget_that_reaches_for_nothing_is_an_error(self):
        with pytest.raises(
            MetricError,
            match=r"max_memory of 900 bytes does not reach.* 960 bytes are needed, 960 of them by class_info",
        ):
            plan_of(self.RULES, SITES, max_memory=900)
