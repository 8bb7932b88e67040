"""How a network's output changes from one run to another, image by image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import nonfinite
from cnnaudit.statistics.image_moments import ImageMoments

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.statistics.base import Probe, Reading, View

__all__ = ["LogitPairs", "LogitsAndLabels"]


class LogitPairs(ImageMoments):
    """What differs between the logits of two runs on the same image.

    Numbers of an image, means over the positions of a dense head: ``flip``, 1 where another class has the highest
    logit; ``jsd``, the Jensen-Shannon divergence of the two softmaxes in bits; ``change`` and ``power``, the squared
    lengths of the difference and of the first logits, both less their mean over classes, which no softmax sees. Where
    the ``skip`` and ``branch`` of a sum between the two are read, too, their mean squares over channels and positions.
    """

    @classmethod
    def names(cls, probe: Probe) -> tuple[str, ...]:
        return ("flip", "jsd", "change", "power", *probe.taps[2:])

    @classmethod
    def rows(cls, probe: Probe) -> int:
        return 1

    @classmethod
    def kept(cls, tap: str, x: Tensor) -> Tensor:
        return _root_mean_square(x) if tap in ("skip", "branch") else x

    def read(self, view: View) -> Reading:
        first, second, *parts = (view.tensors[tap] for tap in self.probe.taps)
        # One at a time: a dense head's logits in float64 are large, and functions differ in the last bit by where in
        # a tensor a number stands.
        differences = [_differences(a, b) for a, b in zip(first, second, strict=True)]
        # The root mean square of one number, which is what was kept of a map, is that number.
        sizes = [_root_mean_square(x).square() for x in parts]
        return {"values": torch.cat([torch.stack(differences), *sizes], 1)[:, None]}


class LogitsAndLabels(ImageMoments):
    """Whether two runs on an image choose the same class, and whether it is its label.

    Numbers of an image: ``same``, 1 where they choose the same; ``right``, the share of the two that choose the label.
    """

    @classmethod
    def names(cls, probe: Probe) -> tuple[str, ...]:
        return ("same", "right")

    @classmethod
    def rows(cls, probe: Probe) -> int:
        return 1

    def read(self, view: View) -> Reading:
        if view.labels is None:
            raise ValueError("what is right is told by labels; the plan checks that before a batch is read")
        logits = [view.tensors[tap].flatten(1) for tap in self.probe.taps]
        first, second = (x.argmax(1) for x in logits)
        right = ((first == view.labels).double() + (second == view.labels).double()) / 2
        values = torch.stack([(first == second).double(), right], 1)[:, None]
        return {"values": values, "trace": torch.where(nonfinite(torch.cat(logits, 1)), torch.nan, 0.0)[:, None]}


def _root_mean_square(x: Tensor) -> Tensor:
    """The root of each image's mean square, float64 of shape (n, 1)."""
    return x.double().flatten(1).square().mean(1, keepdim=True).sqrt()


def _differences(first: Tensor, second: Tensor) -> Tensor:
    """The numbers of LogitPairs, float64 of shape (4,), of one image's logits of shape (classes, *positions)."""
    a, b = (x.double().reshape(len(x), -1) for x in (first, second))
    stays = b.gather(0, a.argmax(0, keepdim=True))[0] >= b.amax(0)
    change, power = (x - x.mean(0) for x in (b - a, a))
    found = [stays.logical_not().double(), _divergence(a, b), change.square().sum(0), power.square().sum(0)]
    return torch.stack(found).mean(1)


def _divergence(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two softmaxes over the first dimension, in bits: exactly 0 where they are equal."""
    log_p, log_q = a.log_softmax(0), b.log_softmax(0)
    further = log_q - log_p
    none = torch.zeros_like(further)
    # log2(2 p / (p + q)) is 1 - log2(1 + q / p).
    from_p = log_p.exp() * (1 - torch.logaddexp(none, further) / math.log(2))
    from_q = log_q.exp() * (1 - torch.logaddexp(none, -further) / math.log(2))
    return ((from_p + from_q).sum(0) / 2).clamp(0, 1)
