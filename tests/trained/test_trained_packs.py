"""The recommended pack on really trained networks: nothing fails that is sound."""

import torch
from trained.networks import digits

import cnnaudit
from cnnaudit.result import Outcome

PACK = {"cnnaudit": 1, "extends": "cnnaudit:recommended", "sampling": {"looks": 1}}
BROKEN = (Outcome.FAIL, Outcome.ERROR)


def of_kernels(model, images, site):
    """Images on which each kernel of a convolution is ever active, by hand."""
    reached = {}
    hook = model.get_submodule(site).register_forward_hook(lambda module, given, x: reached.setdefault("x", x))
    active = 0
    with torch.no_grad():
        for part in images.split(500):
            reached.clear()
            model(part)
            active = active + (reached["x"].relu().amax((2, 3)) > 0).sum(0)
    hook.remove()
    return active


def test_in_the_mnist_network_only_kernels_fail_that_hardly_an_image_activates(digit_networks):
    model, (images, labels) = digit_networks["trained"], digits()
    # Rules that only measure need no more images to show that they break nowhere.
    others = cnnaudit.audit({**PACK, "without": ["dead-kernels"]}, model=model, data=(images[::5], labels[::5]))
    assert {(v.rule, v.site, v.detail) for v in others.verdicts if v.outcome in BROKEN} == set()
    report = cnnaudit.audit({**PACK, "without": others.spec["rules"]}, model=model, data=(images, labels))
    failed = [v for v in report.verdicts if v.outcome in BROKEN]
    assert {(v.rule, v.severity) for v in failed} == {("dead-kernels", "warning")}
    assert {v.site for v in failed} == {"conv_layers.3", "conv_layers.6"}
    for verdict in failed:
        active = of_kernels(model, images, verdict.site)
        worst = [kernel for kernel, *_ in verdict.worst[: verdict.units.failing]]
        assert all(active[kernel] < 0.004 * 5000 for kernel in worst), active[worst]
    assert report.exit_code == 0


def test_in_efficientnet_nothing_fails(photographs, photograph_networks):
    report = cnnaudit.audit(PACK, model=photograph_networks["trained"], data=photographs)
    assert {(v.rule, v.site, v.detail) for v in report.verdicts if v.outcome in BROKEN} == set()
    assert report.exit_code == 0
