"""A linear probe: how many bits about the label a reader of features can use, told by images that it has not seen.

The reader is multinomial logistic regression with a quadratic penalty. Its loss on held-out images is an upper bound
of the entropy that it leaves open, whatever it learned, so what it gains on knowing the frequencies of the classes is a
lower bound of what a better reader could use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self, TypeAlias

from cnnaudit.intervals import Inverted, Normal
from cnnaudit.intervals.base import effective_units, jackknife_error
from cnnaudit.lazy import linalg, np, optimize, sparse_linalg, special, torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from cnnaudit.intervals import Array

__all__ = [
    "FEWEST",
    "Fits",
    "Gain",
    "HeldOut",
    "Integers",
    "Logistic",
    "Quotient",
    "Readers",
    "clustered_mean",
    "fitted",
    "surprise",
    "train",
    "usable",
]

Integers: TypeAlias = "NDArray[np.int64]"

FEWEST = 10  # images for each class
_RIDGES = (10.0, 1.0, 0.1, 0.01, 0.001)
_REPEATS = 2

_FOLDS = 5
_SHARE = 0.001  # of the class frequencies in every prediction, so that no loss is larger than log2 of its inverse
_PATIENCE = 2
_ROUGH, _TIGHT = 3e-4, 3e-5
_BITS = 1 / math.log(2)


class Gain(NamedTuple):
    """What a reader gains on every image that it has not seen.

    Attributes:
        bits: Loss of the class frequencies less that of the probe, shape (repeats, n); NaN where the images are too
            few for a probe.
        influence: What each image does to the mean of ``bits``: its own gain, and by how much it changes the gains of
            others as one of those that the probe learned from; shape (n,). Its mean is that of ``bits``.
        parameters: Free parameters of the probe.
    """

    bits: Array
    influence: Array
    parameters: int

    def __sub__(self, other: Gain) -> Gain:
        """What one reader gains more than another one on the same images with the same folds."""
        return Gain(self.bits - other.bits, self.influence - other.influence, self.parameters)

    def plus(self, other: Gain) -> Gain:
        """The sum of what two readers gain; ``+`` joins tuples."""
        return Gain(self.bits + other.bits, self.influence + other.influence, self.parameters)

    @property
    def spread(self) -> float:
        """Standard deviation of the mean gain over deals of images to folds."""
        return float(self.bits.mean(1).std(ddof=1))


@dataclass(frozen=True)
class Fits:
    """The readers that were fitted to some features, one for each fold of each deal.

    Attributes:
        losses: Bits that each lost on the images that decided its penalty, shape (repeats, folds): none that it gains
            on or was fitted to.
        bits: What each gains on every image of its fold, 0 elsewhere, shape (repeats, folds, n).
        taught: How each image that it learned from changes these gains, shape (repeats, folds, n).
        parameters: Free parameters of such a reader.
    """

    losses: Array
    bits: Array
    taught: Array
    parameters: int

    @property
    def gain(self) -> Gain:
        """What they gain on all images."""
        return Gain(self.bits.sum(1), (self.bits + self.taught).sum(1).mean(0), self.parameters)

    def or_else(self, *others: Fits) -> Fits:
        """The readers of whichever features lost least where penalties are decided, for each fold.

        Of features that hold those of the others it makes a family of readers that may ignore what does not help them.
        """
        every = (self, *others)
        best = np.argmin([fits.losses for fits in every], axis=0)
        of_fold = np.ix_(*map(np.arange, best.shape))
        losses, bits, taught = (
            np.array(parts)[best, *of_fold]
            for parts in zip(*((fits.losses, fits.bits, fits.taught) for fits in every), strict=True)
        )
        return Fits(losses, bits, taught, self.parameters)


@dataclass(frozen=True)
class HeldOut(Normal):
    """A mean over images whose error is already by sources where several images come from one."""

    by_deletion: ClassVar[bool] = False

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:  # noqa: ARG002
        return self


@dataclass(frozen=True)
class Quotient(Inverted):
    """The quotient of two estimates that err together: Fieller's interval, all numbers where the lower one may be 0.

    A number r is in it where the upper estimate less r times the lower one does not differ from 0 by more than its
    error (Fieller, Journal of the Royal Statistical Society B 16 (1954), "Some problems in interval estimation").

    Attributes:
        upper, lower: The two, each of shape (1,).
        variances: Of the upper one, of both together, and of the lower one.
        dof: Degrees of freedom of Student's t.
        factor: What the quotient is multiplied with.
    """

    by_deletion: ClassVar[bool] = False

    upper: Array
    lower: Array
    variances: tuple[float, float, float]
    dof: float
    factor: float

    @property
    def value(self) -> Array:  # type: ignore[override]
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = self.factor * self.upper / self.lower
        return np.where(np.isfinite(quotient), quotient, math.nan)

    def interval(self, confidence: float) -> tuple[Array, Array]:
        reach = float(special.stdtrit(self.dof, (1 + confidence) / 2)) ** 2
        upper, both, lower = self.variances
        a, b, c = self.lower**2 - reach * lower, self.upper * self.lower - reach * both, self.upper**2 - reach * upper
        known = np.isfinite(self.value) & (a > 0)
        root = np.sqrt(np.maximum(b**2 - a * c, 0))
        safe = np.where(known, a, 1)
        low, high = (np.where(known, self.factor * (b + sign * root) / safe, sign * math.inf) for sign in (-1, 1))
        return np.minimum(low, self.value), np.maximum(high, self.value)

    def mean(self) -> Self:
        return self

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:  # noqa: ARG002
        return self


class Readers:
    """Labelled images, and what readers of various features gain on them: all in the same folds, so all paired.

    Args:
        labels: Class of each image, shape (n,).
        clusters: What is independent of the rest, shape (n,).
        sources: Number of sources (images, where each is its own) that were dealt to the clusters.
    """

    def __init__(self, labels: Tensor, clusters: Tensor, sources: int) -> None:
        self.labels, self.clusters = (x.cpu().numpy().astype(np.int64) for x in (labels, clusters))
        # No sample holds more sources than images.
        self._sources = min(sources, len(self.labels))
        self.told = surprise(self.labels)

    @cached_property
    def entropy(self) -> float:
        """Bits that the labels hold."""
        return float(self.told.mean())

    @cached_property
    def _doubt(self) -> float:
        """Share of a mean that one source more could change where all agree."""
        _, sizes = np.unique(self.clusters, return_counts=True)
        return 1 / float(effective_units(self._sources, sizes.astype(np.float64), self._sources))

    @property
    def label_entropy(self) -> HeldOut:
        """The same with the error that drawing the images makes."""
        return clustered_mean(self.told, self.clusters, 0.0, 0.0)

    def fitted(self, *features: Tensor) -> Fits:
        """Fit readers to some features side by side, each of shape (n, features)."""
        return fitted(torch.cat(features, 1).cpu().numpy(), self.labels, self.clusters)

    def bits(self, gain: Gain, factor: float = 1.0) -> HeldOut:
        """The mean gain, times a factor."""
        spread, least = factor * gain.spread, factor * self.entropy * self._doubt
        return clustered_mean(factor * gain.influence, self.clusters, spread, least)

    def share(self, gain: Gain) -> HeldOut:
        """The mean gain over the entropy of the labels, linearised."""
        if not self.entropy:
            return clustered_mean(np.full_like(self.told, np.nan), self.clusters, 0.0, 0.0)
        ratio = gain.influence.mean() / self.entropy
        moved = ratio + (gain.influence - ratio * self.told) / self.entropy
        return clustered_mean(moved, self.clusters, gain.spread / self.entropy, self._doubt)

    def quotient(self, upper: Gain, lower: Gain, factor: float) -> Quotient:
        """One mean gain over another one, times a factor."""

        def variance(gain: Gain) -> float:
            return float(clustered_mean(gain.influence, self.clusters, gain.spread, 0.0).error[0]) ** 2

        # Neither is known better than to what one source more could change it by, however well they agree.
        mean = clustered_mean(upper.influence, self.clusters, 0.0, 0.0)
        least = (self.entropy * self._doubt) ** 2
        both = (variance(upper.plus(lower)) - variance(upper - lower)) / 4
        variances = (variance(upper) + least, both, variance(lower))
        return Quotient(mean.value, lower.influence.mean(keepdims=True), variances, mean.dof, factor)


def clustered_mean(influence: Array, clusters: Integers, spread: float, least: float) -> HeldOut:
    """Return the mean of what images do, with its error by clusters.

    Args:
        influence: Shape (n,).
        clusters: What is independent of the rest, shape (n,).
        spread: Standard deviation over ``_REPEATS`` repeats of what only chance in the estimator decides.
        least: The error is at least that, however well clusters agree.
    """
    _, place, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    value = influence.mean(keepdims=True)
    if len(sizes) < 2:
        return HeldOut(value, np.array([math.inf]), 1)
    sums = np.bincount(place, influence)
    rest = (influence.sum() - sums) / (len(influence) - sizes)
    error, dof = jackknife_error(value, rest[:, None], sizes.astype(np.float64))
    return HeldOut(value, np.maximum(np.sqrt(error**2 + spread**2 / _REPEATS), least), dof)


def surprise(labels: Integers) -> Array:
    """Return -log2 of the frequency of each image's class, shape (n,); its mean is the entropy of the labels."""
    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    bits: Array = np.log2(len(labels) / counts)[place]
    return bits


def usable(features: Array, labels: Integers, clusters: Integers) -> Gain:
    """Return what cross-validated readers of the features gain; see :func:`fitted`."""
    return fitted(features, labels, clusters).gain


def fitted(features: Array, labels: Integers, clusters: Integers) -> Fits:
    """Cross-validate a probe in five folds of whole clusters, ``_REPEATS`` times with another deal.

    The penalty is chosen for each fold from ``_RIDGES``, and from ignoring the features altogether, by losses on two of
    the other folds of a probe that has seen neither these nor the fold itself.

    Args:
        features: Shape (n, features), finite.
        labels: Class of each image, shape (n,).
        clusters: What is independent of the rest, shape (n,).
    """
    classes, y = np.unique(labels, return_inverse=True)
    z, power = _rotated(features)
    parameters = (_varying(features).sum() + 1) * (len(classes) - 1)
    n = len(y)
    if len(classes) < 2 or n < FEWEST * len(classes) or len(np.unique(clusters)) < _FOLDS:
        unknown = np.full((_REPEATS, _FOLDS, n), math.nan)
        return Fits(unknown[..., 0], unknown, unknown, int(parameters))
    data = _Data(z, power, np.eye(len(classes))[y])
    found = [_cross_validated(data, _dealt(y, clusters, repeat)) for repeat in range(_REPEATS)]
    losses, bits, taught = (np.array(parts) for parts in zip(*found, strict=True))
    return Fits(losses, bits, taught, int(parameters))


class Logistic(NamedTuple):
    """Multinomial logistic regression.

    Attributes:
        weights: Shape (features + 1, classes), the intercepts in the last row.
        ridge: The penalty is half of it times the sum of squares of all weights but the intercepts.
    """

    weights: Array
    ridge: float

    def logits(self, z: Array) -> Array:
        """Return what is exponentiated, shape (n, classes)."""
        return _linear(z, self.weights)

    def probabilities(self, z: Array) -> Array:
        """Return the probability of every class, shape (n, classes)."""
        found: Array = special.softmax(self.logits(z), axis=1)
        return found


def train(z: Array, power: Array, onehot: Array, start: Logistic, *, tolerance: float = _TIGHT) -> Logistic:
    """Minimise mean loss in nats plus penalty by L-BFGS, from a start whose ``ridge`` is the one that is wanted.

    It runs in coordinates in which the curvature is about the same everywhere, where it takes a few dozen steps:
    ``power``, the mean squares of the features, decides those where features are uncorrelated.
    """
    n = len(z)
    scale = np.sqrt(_curvature(power, start.ridge, onehot.shape[1]))

    def objective(x: Array) -> tuple[float, Array]:
        weights = x.reshape(scale.shape[0], -1) / scale
        logits = _linear(z, weights)
        logits -= logits.max(1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(1, keepdims=True)
        loss = (np.log(total).sum() - (logits * onehot).sum()) / n + start.ridge / 2 * (weights[:-1] ** 2).sum()
        gradient = _transposed(z, (p / total - onehot) / n)
        gradient[:-1] += start.ridge * weights[:-1]
        return loss, (gradient / scale).ravel()

    found = optimize.minimize(
        objective,
        (start.weights * scale).ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 1000, "maxcor": 20, "gtol": tolerance, "ftol": 0},
    )
    return start._replace(weights=found.x.reshape(start.weights.shape) / scale)


class _Data(NamedTuple):
    """Rotated features with their mean squares, and classes as rows of a unit matrix."""

    z: Array
    power: Array
    onehot: Array

    def where(self, rows: NDArray[np.bool_]) -> _Data:
        return self._replace(z=self.z[rows], onehot=self.onehot[rows])

    @property
    def frequencies(self) -> Array:
        """Krichevsky and Trofimov's: half an image more of every class, so that none is impossible."""
        counts = self.onehot.sum(0) + 0.5
        found: Array = counts / counts.sum()
        return found

    def loss(self, frequencies: Array, probe: Logistic | None) -> Array:
        """Loss in bits of each row, shape (n,)."""
        p = frequencies[None] if probe is None else _mixed(probe.probabilities(self.z), frequencies)
        bits: Array = -np.log2((p * self.onehot).sum(1))
        return bits


def _mixed(p: Array, frequencies: Array) -> Array:
    return (1 - _SHARE) * p + _SHARE * frequencies


def _cross_validated(data: _Data, folds: Integers) -> tuple[Array, Array, Array]:
    """For each fold the loss that chose its reader, the gains of its images, and what taught them."""
    losses = np.zeros(_FOLDS)
    bits, taught = np.zeros((2, _FOLDS, len(folds)))
    paths = [_path(data, folds, fold, (fold + 1) % _FOLDS) for fold in range(_FOLDS)]
    for fold in range(_FOLDS):
        # The path of this fold and its successor was judged on the successor, that of its predecessor on that one.
        before = paths[fold - 1]
        total = paths[fold].second + before.first
        best = int(total.argmin())
        losses[fold] = total[best]
        probe = paths[fold].probes[best]
        if probe is None:
            continue
        learned, held = data.where(folds != fold), data.where(folds == fold)
        frequencies = learned.frequencies
        probe = train(learned.z, data.power, learned.onehot, probe)
        bits[fold, folds == fold] = held.loss(frequencies, None) - held.loss(frequencies, probe)
        taught[fold, folds != fold] = _taught(learned, held, probe)
    return losses, bits, taught


class _Path(NamedTuple):
    """Probes of falling penalty that saw neither of two folds, and their losses on the first and the second."""

    probes: list[Logistic | None]
    first: Array
    second: Array


def _path(data: _Data, folds: Integers, first: int, second: int) -> _Path:
    learned = data.where((folds != first) & (folds != second))
    held = [data.where(folds == fold) for fold in (first, second)]
    frequencies = learned.frequencies
    weights = np.zeros((data.z.shape[1] + 1, len(frequencies)))
    weights[-1] = np.log(frequencies)
    losses = np.full((2, 1 + len(_RIDGES)), math.inf)
    probes: list[Logistic | None] = [None]
    losses[:, 0] = [part.loss(frequencies, None).sum() for part in held]
    for number, ridge in enumerate(_RIDGES if data.z.shape[1] else (), 1):
        probe = train(learned.z, data.power, learned.onehot, Logistic(weights, ridge), tolerance=_ROUGH)
        losses[:, number] = [part.loss(frequencies, probe).sum() for part in held]
        probes.append(probe)
        weights = probe.weights
        total = losses.sum(0)
        if number >= _PATIENCE and total[: number + 1].argmin() <= number - _PATIENCE:
            break
    return _Path(probes, *losses)


def _taught(learned: _Data, held: _Data, probe: Logistic) -> Array:
    """Return how an image that a probe learned from changes the gains of those that it did not, shape (n,).

    To first order a probe that weighs image i more moves by the inverse curvature of its objective times the image's
    gradient, and the gains by their gradient times that: the infinitesimal jackknife. So an error counts that other
    images would have taught another probe, which the images' own gains do not tell.
    """
    p = probe.probabilities(held.z)
    told = (_mixed(p, learned.frequencies) * held.onehot).sum(1, keepdims=True)
    share = (1 - _SHARE) * (p * held.onehot).sum(1, keepdims=True) / told
    slope = _transposed(held.z, _BITS * share * (held.onehot - p))
    q = probe.probabilities(learned.z)
    move = _solved(learned, q, probe.ridge, slope)
    effect = ((learned.onehot - q) * _linear(learned.z, move)).sum(1) / len(q)
    centred: Array = effect - effect.mean()
    return centred


def _solved(learned: _Data, q: Array, ridge: float, slope: Array) -> Array:
    """Return the inverse curvature of the objective times a slope, by conjugate gradients."""
    shape, size = slope.shape, slope.size

    def curved(x: Array) -> Array:
        v = x.reshape(shape)
        a = _linear(learned.z, v)
        a = q * (a - (q * a).sum(1, keepdims=True)) / len(q)
        out = _transposed(learned.z, a)
        out[:-1] += ridge * v[:-1]
        out[-1] += 1e-6 * v[-1]  # a shift of all intercepts changes no probability
        return out.ravel()

    about = _curvature(learned.power, ridge, shape[1])
    inverse = sparse_linalg.LinearOperator((size, size), lambda x: (x.reshape(shape) / about).ravel(), dtype=np.float64)
    found, _ = sparse_linalg.cg(
        sparse_linalg.LinearOperator((size, size), curved, dtype=np.float64),
        slope.ravel(),
        M=inverse,
        rtol=0.03,
        maxiter=50,
    )
    moved: Array = found.reshape(shape)
    return moved


def _curvature(power: Array, ridge: float, classes: int) -> Array:
    """About the second derivative of the objective along each weight, shape (features + 1, 1)."""
    open_ = (1 - 1 / classes) / classes
    second: Array = np.append(open_ * power + ridge, open_)[:, None]
    return second


def _linear(z: Array, weights: Array) -> Array:
    product = _product(z, weights[:-1])
    product += weights[-1]
    return product


def _transposed(z: Array, x: Array) -> Array:
    """Return the transpose of :func:`_linear` applied to what is on its side, shape (features + 1, classes)."""
    return np.concatenate([_product(z.T, x), x.sum(0, keepdims=True)])


def _product(a: Array, b: Array) -> Array:
    # By torch: how many threads it takes is ours to say, and those of numpy wait for each other on thin matrices.
    product: Array = (torch.from_numpy(a) @ torch.from_numpy(np.ascontiguousarray(b))).numpy()
    return product


def _varying(features: Array) -> NDArray[np.bool_]:
    """Which features vary by more than float32 rounding makes them."""
    size = np.abs(features).max(0, initial=0)
    varying: NDArray[np.bool_] = np.ptp(features, axis=0) > 1e-6 * size
    return varying


def _rotated(features: Array) -> tuple[Array, Array]:
    """Standardise features and turn them to their principal axes, which no penalty on all weights alike notices.

    Labels have no part in it, so a held-out image stays one.

    Returns:
        Shape (n, rank), and the mean squares of its columns, shape (rank,).
    """
    x = features[:, _varying(features)]
    if not x.shape[1]:
        return np.zeros((len(x), 0)), np.zeros(0)
    x = (x - x.mean(0)) / x.std(0)
    n, d = x.shape
    power, axes = linalg.eigh((x.T @ x if d <= n else x @ x.T) / n)
    kept = power > 1e-10 * power[-1]
    power, axes = power[kept], axes[:, kept]
    return (x @ axes if d <= n else axes * np.sqrt(n * power)), power


def _dealt(y: Integers, clusters: Integers, repeat: int) -> Integers:
    """Deal clusters to folds of about equal size: the large ones first, and classes in turn.

    Returns:
        The fold of each image, shape (n,).
    """
    _, first, place, sizes = np.unique(clusters, return_index=True, return_inverse=True, return_counts=True)
    chance = np.random.Generator(np.random.PCG64(repeat)).permutation(len(sizes))
    held = [0] * _FOLDS
    fold_of = np.zeros(len(sizes), dtype=np.int64)
    for cluster in np.lexsort((chance, y[first], -sizes)):
        fold = held.index(min(held))
        fold_of[cluster] = fold
        held[fold] += int(sizes[cluster])
    folds: Integers = fold_of[place]
    return folds
