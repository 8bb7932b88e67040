"""How few images a kernel's response is concentrated on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnaudit.intervals import Array, BoundedMean, Uncertain, relative_variance
from cnnaudit.lazy import np
from cnnaudit.metrics.base import Field, Gate, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import ResponseMoments

_FEWEST = 100
_CARRYING = 30


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if not site.taps["response"].nonnegative:
        return "responses here may be negative, and then the index has no meaning"
    return None


def _gate(responses: ResponseMoments, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    # Of the images of one source no more than their share of all sources is sure to be independent.
    n = responses.n_sources
    carrying = _carriers(responses) * n / responses.n_images
    needed = np.where(carrying < _CARRYING * (1 - 1e-9), np.ceil(_CARRYING * n / np.maximum(carrying, 1)), 0)
    samples = "sources" if responses.probe.clustered else "images"
    return Gate(needed.astype(np.int64), f"fewer than {_CARRYING} {samples} carry the squared response of some kernels")


def _carriers(responses: ResponseMoments) -> Array:
    """Number of images that would carry the squared response if each carried as much: (sum r^2)^2 / sum r^4."""
    _, squares, _, fourth = (numbers(moment) for moment in responses.moments)
    carriers: Array = np.divide(squares**2, fourth, out=np.zeros_like(fourth), where=fourth > 0)
    return carriers


_LITTLE = (
    "Kernels that respond to nearly all images alike.",
    "See activity.always_on, and class_information: such a kernel may tell no two images apart.",
)
_MUCH = (
    "Kernels whose response is concentrated on few images.",
    "See class_auroc for whether these are of one class, and activity.dead for whether any are left.",
)


@metric(
    reads=ResponseMoments,
    at=Op.CONV,
    taps="response",
    fields={
        "sparseness": Field(
            "ratio", "0 where all images get the same response, near 1 where few do", "", _LITTLE, _MUCH
        ),
        "finite": Field(
            "ratio", "the same as published, for as many images as there are", "", _LITTLE, _MUCH, exact=True
        ),
    },
    interval="delta method over images, bounded in [0, 1]",
    cost="light: one whole-map mean, shared",
    applies=_applies,
    images=lambda need: _FEWEST,  # noqa: ARG005
    gate=_gate,
)
def lifetime_sparseness(responses: ResponseMoments, site: Site) -> Mapping[str, Uncertain]:
    """How few of the images a kernel's response is concentrated on, one value for each kernel.

    Definition. With R the kernel's mean response over the map, a = (E R)^2 / E R^2 over images (Treves & Rolls,
    Network 2 (1991)) and S = 1 - a. ``sparseness`` is S of the population that the images come from, n -> infinity.
    ``finite`` is (1 - a) / (1 - 1 / n) of the n images that were read (Vinje & Gallant, Science 287 (2000)), which is
    1 where one image gets all of the response; it serves for comparison with published values.

    Unit and range. A ratio in [0, 1]: 0 where all images get the same response, and 1 - f where a fraction f of them
    gets the same and the rest nothing. S = CV^2 / (1 + CV^2) in terms of the coefficient of variation. Exponential
    responses have 1/2, the positive half of a normal distribution 1 - 2 / pi = .363, a rectified normal one
    1 - 1 / pi = .682.

    Estimator and bias. From the sums of the first four powers. The plug-in 1 - a is biased by O(1 / n); ``sparseness``
    has the second-order term of the delta method taken off; the published factor of ``finite`` does not remove it.

    Interval. Delta method over images for a ratio of moments, as for a bounded mean (Korn & Graubard 1998), so that it
    stays in [0, 1] and images that all agree leave the doubt of those that were not met. Where only k images carry the
    squared response, k = (sum r^2)^2 / sum r^4, they tell too small an error: it is 1 + 1 / sqrt(k) times as large.
    Where several images come from one source the error is a delete-a-group jackknife over sources instead. Simulated
    with 200 and 1,000 images nominal 95 % intervals covered exponential, half-normal and rectified normal responses in
    95 to 98 % and lognormal ones of logarithmic deviation .5 in 93 to 94 %. Heavier tails are not to be known from so
    few images: of lognormal responses of deviation 1 it was 79 % (200 images; the gate is closed) and 88 % (1,000).

    Pitfalls. Gate: 100 sources, and 30 that carry the squared response, k times sources / images. Not defined where
    responses may be negative, and 0 / 0 for a dead kernel. A positive scale does not change it; a shift (a bias, a
    kernel that is always on) lowers it. It is about one kernel over images: population sparseness, over the kernels for
    one image, is another number. Sparse is not selective: the few images need have nothing in common. So no threshold
    is good by itself.
    """
    n = responses.n_images
    r, rr, rrr, rrrr = (numbers(moment) for moment in responses.moments)
    plugin, error, bias = relative_variance(r, rr, ss=rr, sq=rrr, qq=rrrr, n=n)
    error = error * (1 + 1 / np.sqrt(np.maximum(_carriers(responses), 1)))
    return {
        "sparseness": _bounded(plugin - bias, error, n),
        "finite": _bounded(plugin / (1 - 1 / n), error / (1 - 1 / n), n) if n > 1 else _bounded(plugin, error, n),
    }


def _bounded(value: Array, error: Array, n: int) -> BoundedMean:
    return BoundedMean(np.clip(value, 0, 1), error, n)
