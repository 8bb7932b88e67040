"""How far a kernel's response is a probability of its best class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

from pydantic import Field as Param

from cnnaudit.crossfit import Selected, choose, eligible, pick
from cnnaudit.detection import areas, auroc, tables
from cnnaudit.intervals import Array, BoundedMean, Normal, Shifted, Uncertain
from cnnaudit.intervals.base import jackknife_error
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, Gate, Need, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import ClassResponses, halved

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

_FEWEST = 30
_BINS = 256  # as many as the images that fix the grid
_RIDGE = 0.01
_STEPS = 100
_LONGEST = 2.0  # step of Newton's method, in standard deviations of the response
_SETTLED = 1e-10


def _images(need: Need) -> int:
    return _FEWEST * need.classes


def _gate(responses: ClassResponses, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    positives = _calibrate(responses, int(params["quantiles"])).positives
    needed = np.where(positives < _FEWEST, np.ceil(_FEWEST * responses.n_sources / np.maximum(positives, 1)), 0)
    samples = "sources" if responses.probe.clustered else "images"
    reason = f"a chosen class has {positives.min():.0f} {samples}, and {_FEWEST} are needed"
    return Gate(needed.astype(np.int64), reason)


@metric(
    reads=ClassResponses,
    at=Op.CONV,
    taps="response",
    fields={
        "error": Field(
            "probability",
            "expected calibration error of the fitted logistic curve for a class chosen on other images",
            "lower",
            high=(
                "Kernels whose response does not grow into a class as a logistic curve does: it is no scaled log odds.",
                "Look at class_auroc: where it is high, the response ranks images well and only its scale is bent; an "
                "increasing curve through the levels would serve.",
            ),
        ),
        "skill": Field(
            "ratio",
            "share of the Brier score of the class's frequency that the curve removes; 0 by chance",
            "higher",
            (
                "Kernels whose response, as a probability, predicts its best class hardly better than its frequency.",
                "Alone they predict nothing, together they may: see class_information and usable_information.",
            ),
            (
                "Kernels whose response alone predicts a class better than the rule allows.",
                "Look for a shortcut: a mark, border or scanner in the images that gives the class away.",
            ),
        ),
    },
    interval="error: normal, between plug-in and correction; skill: influence function",
    cost="light: one whole-map mean, shared",
    labels=True,
    identity=("quantiles",),
    images=_images,
    gate=_gate,
)
def class_calibration(
    responses: ClassResponses,
    site: Site,
    *,
    quantiles: Annotated[int, Param(ge=2, le=100)] = 10,
    bins: Annotated[int, Param(ge=2, le=_BINS)] = _BINS,
) -> Mapping[str, Uncertain]:
    """Calibration of a kernel's response as a probability of its best class, one value for each kernel.

    Definition. On one half of the sources the class of the largest AUROC is chosen for the kernel, and
    p(R) = 1 / (1 + exp(-(a + b R))) is fitted to it by logistic regression, R being the mean response over the map.
    On the other half, images are put into ``quantiles`` bins by R that are of equally many images
    on the first half (a level across a border is shared out), and

    - ``error``: expected calibration error, the sum over bins of |sum of (y - p)| / images, y being 1 for an image of
      the class and 0 for others;
    - ``skill``: 1 - B / B0, B the mean of (y - p)^2 (Brier score) and B0 that of a constant p at the class's frequency.

    Then the halves change places, and the two values are averaged. "A kernel's output is a relative probability of its
    feature" holds for a class where ``error`` is small and ``skill`` is not: a dead kernel is perfectly calibrated, it
    always says how frequent the class is. A softmax over the positions of a map tests nothing of this.

    Unit and range. ``error`` a difference of probabilities in [0, 1], but a constant curve for a class of frequency
    f that is told apart perfectly has just 2 f (1 - f): a rare class has a small error whatever its curve, so
    compare kernels of like classes. ``skill`` a ratio up to 1, 0 for a curve that knows the frequency alone, below
    0 for worse.

    Estimator and bias. |x| of a noisy x is too large on average, so the plain sum over bins is above 0 for a
    perfect curve. The noise s of a bin's deviation under calibration is known: its images are then Bernoulli, and a
    and b have the errors of the fit. With m(d) the mean of |N(d, s^2)|, ``error`` adds d - (m(d) - d) for each
    bin's |deviation| d instead of d. That takes off a little more than half of the excess of a perfect curve, .80 s
    a bin, and all of it where a bin is clearly wrong (at worst .09 s too much). Bins of equally many images have
    less bias than bins of equal width (Roelofs et al., arXiv 2012.08668). Deviations of both signs within a bin
    cancel: a finer division can only show a larger error. ``skill`` is too low by 6 to 9 / images: the curve's two
    numbers are fitted to one half, B0's to the other. The best class is that of half of these images; other halves
    may choose another. Responses are read as the mean of their level on the calibration images, levels as in
    class_auroc, so R beyond those images counts as the last level. A ridge of .01 on the slope (of standardised R)
    keeps separable classes finite.

    Interval. ``error``: from the influence of each cell (class or not, level) with the signs of the deviations
    held, on its own half and as teacher of the other half's curve; at least 2 / images. The lower end stands on the
    plain sum less .80 s a bin, all that chance makes of a perfect curve, and so does not refute one; the upper on the
    value (simulated for p(R) with a jump, 1,000 images: both ends hold the truth in 95 to 96 % at 95 %; for logistic
    p(R) in 98 %). ``skill``: the same influences, at least 2 / (images B0), and 94 to 96 % there; its lower end
    reaches 0 until AUROC = .5 is refuted with Bonferroni over the classes. Where several images come from one source,
    errors are delete-a-group jackknifes over sources, and at the lower end s grows by as much as the error does; the
    value and the upper end are too high then.

    Pitfalls. Gate: 30 sources of the chosen class (images, where each is a source of its own). Classes with fewer than
    two images in a half cannot be chosen; with none left, or one class alone, there is no value. Calibration is a
    property of these classes' frequencies: with others a changes, b does not. A kernel for two classes is calibrated
    for neither. ``quantiles`` belongs to the value's identity.
    """
    return _calibrate(responses, quantiles).fields


@dataclass(frozen=True)
class _Error(Shifted):
    """An expected calibration error, between the correction for a perfect curve and that for the curve as it is.

    Attributes:
        plain: The sum of absolute deviations.
        excess: What chance makes of a perfect curve: mean of the plain sum.
        removed: What is taken off the plain sum.
    """

    plain: Array | float = 0.0
    excess: Array | float = 0.0
    removed: Array | float = 0.0

    @classmethod
    def of(cls, plain: Array, excess: Array, removed: Array, error: Array, least: Array) -> Self:
        value, floor = np.maximum(plain - removed, 0), plain - excess
        return cls(
            value, error, limits=(0.0, 1.0), least=least, floor=floor, plain=plain, excess=excess, removed=removed
        )

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:  # noqa: ARG002
        # What is taken off bends where a bin's deviation is small; the plain sum bends less.
        error, dof = jackknife_error(np.asarray(self.plain), [np.asarray(part.plain) for part in parts], sizes)
        error = np.maximum(error, self.least)
        # Related images raise the noise of a bin as they raise that of the sum.
        with np.errstate(invalid="ignore"):
            wider = np.maximum(error / self.error, 1)
        return replace(self, error=error, dof=dof, floor=self.plain - self.excess * wider)

    def mean(self) -> Self:
        plain, excess, removed = (np.atleast_1d(np.mean(x)) for x in (self.plain, self.excess, self.removed))
        return replace(super().mean(), plain=plain, excess=excess, removed=removed)


class _Calibration(NamedTuple):
    """What is known of every kernel, shape (kernels,).

    Attributes:
        fields: The metric's fields.
        positives: Sources of the chosen class.
    """

    fields: Mapping[str, Uncertain]
    positives: Array


class _Halves(NamedTuple):
    """Curves and images of every kernel that they are tried on, float64.

    Attributes:
        x: Standardised response of each level, shape (2, kernels, levels).
        p: Fitted probability of the class, of the same shape.
        stop: Share of the images of the fit in that level and below, of the same shape.
        positive, everyone: Images of the class and of all that had no part in the fit, of the same shape.
        taught: Images of the class of the other half's curve, which these images were the fit of.
        both: Images of both classes: all of one where both halves chose the same, else none.
        model: Covariance of a and b if the curve is right, shape (2, kernels, 2, 2).
    """

    x: Tensor
    p: Tensor
    stop: Tensor
    positive: Tensor
    everyone: Tensor
    taught: Tensor
    both: Tensor
    model: Tensor

    def bins(self, quantiles: int) -> Iterator[Tensor]:
        """Yield how much of each level lies in each bin, of the shape of ``x``."""
        start = torch.nn.functional.pad(self.stop[..., :-1], (1, 0))
        mass = self.stop - start
        for number in range(quantiles):
            low, high = number / quantiles, (number + 1) / quantiles
            inside = (self.stop.clamp(max=high) - start.clamp(min=low)).clamp(min=0)
            empty = (self.stop >= low) & ((self.stop < high) | (number == quantiles - 1))
            yield torch.where(mass > 0, inside / torch.where(mass > 0, mass, 1), empty.double())


def _calibrate(responses: ClassResponses, quantiles: int) -> _Calibration:
    sources = halved(responses.class_sources.double(), 0)
    rows: list[tuple[Array, ...]] = []
    for halves, atoms, centres in tables(responses):
        everyone, n = halves.sum(2), halves.sum(-1)
        kept = eligible(n[:, 0])
        choices = len(kept)
        if choices < 1 or bool((n[:, 0, kept] == n[:, 0].sum(-1, keepdim=True)).any()):
            rows.append((*(np.full(len(atoms), np.nan),) * 9, np.ones(len(atoms)), np.zeros(len(atoms))))
            continue
        classes = halves[:, :, kept]
        score = areas(classes, everyone)
        choice = choose(score)  # on the half that the curve is fitted to
        samples = pick(sources[:, None, kept].expand_as(score), choice)
        tested = auroc(pick(classes, choice), everyone, atoms, samples, sources.sum(1, keepdim=True))
        fitted, same = pick(classes.flip(0), choice), choice[0] == choice[1]
        tried = _fitted(pick(classes, choice), fitted, everyone, centres, same)
        above = np.clip(tested.value - tested.bracket, 0, 1) - 0.5
        smallest = 2 / (responses.n_sources * _frequency_score(tried).mean(0))
        rows.append(
            (
                *_errors(tried, quantiles),
                *_skills(tried),
                numbers(smallest),
                above,
                tested.error,
                tested.units,
                tested.positives,
            )
        )
    plain, excess, removed, error, skill, skill_error, least, above, above_error, units, positives = map(
        np.concatenate, zip(*rows, strict=True)
    )
    fewest = np.full_like(error, 2 / responses.n_sources)
    claim = Normal(skill, np.maximum(skill_error, least), limits=(-math.inf, 1.0), least=least)
    told = BoundedMean(above, above_error, units.astype(np.int64), limits=(-0.5, 0.5))
    return _Calibration(
        {
            "error": _Error.of(plain, excess, removed, np.maximum(error, fewest), fewest),
            "skill": Selected(skill, claim, claim, max(1, choices), 0.0, told),
        },
        positives,
    )


def _fitted(positive: Tensor, fitted: Tensor, everyone: Tensor, centres: Tensor, same: Tensor) -> _Halves:
    """Fit a curve to each half and prepare it for the other half.

    Args:
        positive: Images of the chosen class in the half that the curve is tried on, shape (2, kernels, levels).
        fitted: Those in the half that it is fitted to.
        everyone: Images of all classes.
        centres: Response in each level, shape (kernels, levels).
        same: Whether both halves chose the same class, shape (kernels,).
    """
    n = everyone.flip(0)
    images = n.sum(-1, keepdim=True)
    centre = (n * centres).sum(-1, keepdim=True) / images
    spread = ((n * (centres - centre).square()).sum(-1, keepdim=True) / images).sqrt()
    # Equal responses leave a spread of rounding errors.
    varies = spread > 1e-9 * centre.abs()
    x = torch.where(varies, (centres - centre) / torch.where(varies, spread, 1), 0)
    theta = _logistic(x, fitted, n)
    p = torch.sigmoid(theta[..., :1] + theta[..., 1:] * x)
    model = torch.linalg.inv(_information(x, n * p * (1 - p)))
    both = torch.where(same[:, None], positive, 0)
    return _Halves(x, p, n.cumsum(-1) / images, positive, everyone, fitted.flip(0), both, model)


def _logistic(x: Tensor, positive: Tensor, n: Tensor) -> Tensor:
    """Logistic regressions with a small ridge on the slope, all at once, by Newton's method.

    Args:
        x: Standardised values, shape (..., levels).
        positive: Images of the class at each, of the same shape; some, and not all, are of the class.
        n: Images of all classes at each.

    Returns:
        Intercept and slope, shape (..., 2).
    """
    start = torch.logit(positive.sum(-1) / n.sum(-1))
    theta = torch.stack([start, torch.zeros_like(start)], -1)
    for _ in range(_STEPS):
        p = torch.sigmoid(theta[..., :1] + theta[..., 1:] * x)
        rest = positive - n * p
        slope = torch.stack([rest.sum(-1), (rest * x).sum(-1) - _RIDGE * theta[..., 1]], -1)
        step = torch.linalg.solve(_information(x, n * p * (1 - p)), slope)
        length = step.abs().amax(-1, keepdim=True)
        theta = theta + step * (_LONGEST / length.clamp(min=_LONGEST))
        if float(length.max()) < _SETTLED:
            break
    return theta


def _moments(x: Tensor, weight: Tensor) -> Tensor:
    """Sums of the weights, times x and times x^2, shape (..., 2, 2)."""
    first = (weight * x).sum(-1)
    rows = torch.stack([weight.sum(-1), first], -1), torch.stack([first, (weight * x.square()).sum(-1)], -1)
    return torch.stack(rows, -2)


def _information(x: Tensor, weight: Tensor) -> Tensor:
    ridge = torch.tensor([[1e-9, 0], [0, _RIDGE]], dtype=torch.float64, device=x.device)
    return _moments(x, weight) + ridge


def _variance(pull: Tensor, covariance: Tensor) -> Tensor:
    """Variance of a linear function of a and b, its factors in the last dimension."""
    variance: Tensor = torch.einsum("...i,...ij,...j->...", pull, covariance, pull)
    return variance


def _errors(tried: _Halves, quantiles: int) -> tuple[Array, Array, Array, Array]:
    """Plain expected calibration error, its mean for a perfect curve, what to take off it, and its standard error."""
    x, p, _, positive, everyone, *_, model = tried
    images = everyone.sum(-1, keepdim=True)
    rest, bernoulli = (positive - everyone * p) / images, everyone * p * (1 - p) / images
    zero = torch.zeros_like(images[..., 0])
    plain, excess, removed, sign, slope = zero, zero, zero, torch.zeros_like(x), torch.zeros_like(model[..., 0])
    for share in tried.bins(quantiles):
        deviation = (share * rest).sum(-1)
        pull = torch.stack([(share * bernoulli).sum(-1), (share * bernoulli * x).sum(-1)], -1)
        noise = ((share.square() * bernoulli / images).sum(-1) + _variance(pull, model)).sqrt()
        plain = plain + deviation.abs()
        excess = excess + math.sqrt(2 / math.pi) * noise
        removed = removed + _folded_excess(deviation.abs(), noise)
        sign = sign + share * deviation.sign()[..., None]
        slope = slope + pull * deviation.sign()[..., None]
    error = _error(tried, sign * (1 - p) - plain[..., None], -sign * p - plain[..., None], -slope)
    means = [numbers(part.mean(0)) for part in (plain, excess, removed)]
    return means[0], means[1], means[2], error


def _error(tried: _Halves, positive: Tensor, negative: Tensor, slope: Tensor) -> Array:
    """Standard error of a mean over the halves.

    An image tells in its own half, by a curve that it had no part in, and teaches the curve of the other half. Where
    the curve is not the right one the two go together, so they are added before they are squared.

    Args:
        tried: Curves and images.
        positive: What an image of the class tells at each level, shape (2, kernels, levels), of mean 0 in each half.
        negative: What another one tells.
        slope: Derivatives of the halves' values by a and b, shape (2, kernels, 2).
    """
    images = tried.everyone.sum(-1, keepdim=True)
    move = (tried.model @ slope[..., None])[..., 0].flip(0)
    x, p = tried.x.flip(0), tried.p.flip(0)
    teaches = move[..., :1] + move[..., 1:] * x
    of_class, of_others = (1 - p) * teaches, -p * teaches
    told, open_ = positive / images, negative / images
    squares = (
        tried.both * (told + of_class).square()
        + (tried.positive - tried.both) * (told + of_others).square()
        + (tried.taught - tried.both) * (open_ + of_class).square()
        + (tried.everyone - tried.positive - tried.taught + tried.both) * (open_ + of_others).square()
    )
    variance = squares.sum(-1) * (images / (images - 1))[..., 0]
    return numbers(variance.sum(0).sqrt()) / 2


def _folded_excess(size: Tensor, noise: Tensor) -> Tensor:
    """By how much the mean of |N(size, noise^2)| exceeds size."""
    z = size / noise.clamp(min=1e-300)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    excess: Tensor = 2 * noise * (density - z * torch.special.ndtr(-z))
    return excess


def _frequency_score(tried: _Halves) -> Tensor:
    """Brier score of the class's frequency, shape (2, kernels)."""
    frequency = tried.positive.sum(-1) / tried.everyone.sum(-1)
    return frequency * (1 - frequency)


def _skills(tried: _Halves) -> tuple[Array, Array]:
    """Brier skill and its standard error."""
    x, p, _, positive, everyone, *_ = tried
    images = everyone.sum(-1)
    negative = everyone - positive
    frequency = (positive.sum(-1) / images)[..., None]
    reference = _frequency_score(tried)[..., None]
    score = ((positive * (1 - p).square() + negative * p.square()).sum(-1) / images)[..., None]
    skill = 1 - score / reference

    def influence(squared: Tensor, y: int) -> Tensor:
        moved = (1 - 2 * frequency) * (y - frequency)
        return -(squared - score - (score / reference) * moved) / reference

    slope = 2 * (positive - everyone * p) * p * (1 - p) / (images[..., None] * reference)
    pull = torch.stack([slope.sum(-1), (slope * x).sum(-1)], -1)
    error = _error(tried, influence((1 - p).square(), 1), influence(p.square(), 0), pull)
    return numbers(skill[..., 0].mean(0)), error
