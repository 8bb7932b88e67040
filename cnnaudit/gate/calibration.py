"""Bounds that another good network keeps, with a stated probability, from a few networks that are known to be good.

An alarm is anything but PASS, and a rule passes where its deciding one-sided limit keeps the bound. So it is these
limits, one for each good network and site, that are predicted: on a scale g where their spread does not depend on
where they lie (logit for fractions, log for positive quantities), the limit of one more network is below

    mean - t * s * sqrt(1 + 1 / K)

with the chance that t is taken at: the prediction interval for one more observation. Of the K - 1 degrees of freedom
of a site not much can be said, so its variance is moderated: the mean variance of the rule's other sites counts as up
to ``BORROWED`` further degrees of freedom (moderated t, Smyth 2004, Statistical Applications in Genetics and Molecular
Biology 3; there the number is estimated, which a handful of sites does not allow). Sites are not taken for alike
beyond that: in trained networks the spread of one is easily half or twice that of another. It is never taken for less
than what the images' sampling error alone makes.

Counts of kernels, of which good networks may have none, are predicted by the beta-binomial distribution over all
kernels of the rule, at the upper end (Clopper-Pearson) of what the known ones say.

The rate is split by Bonferroni over every rule and site, half of it for the bounds and half for ``max_regression``:
how networks depend on each other's sites does not matter. One rule has one bound, that of its worst site.

With a single network only its images can tell anything, by the error of the interval, as of leaving out each of the
groups that images are dealt to: how the limit would move with as many other images. Other trainings are outside of
that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BORROWED", "Place", "Proposal", "Quantity", "calibrate"]

Scale: TypeAlias = Literal["fraction", "positive", "count", "real"]

BORROWED = 4.0  # degrees of freedom that the other sites of a rule lend at most
GROUPS = 16  # that images are dealt to: one fewer are the degrees of freedom of their error
_LEAST = 0.1  # of the way from the range's end to the good networks that a bound must rule out
_DIGITS = 3


@dataclass(frozen=True)
class Place:
    """What good networks have at one site.

    Attributes:
        site: Its path.
        values: Mean over the site's units in each network.
        limits: The deciding one-sided limit of each: what a PASS needs to be on the good side of the bound.
        units: Kernels of the site.
        null: What the null twin has, or None where it has nothing.
    """

    site: str
    values: tuple[float, ...]
    limits: tuple[float, ...]
    units: int = 1
    null: float | None = None


@dataclass(frozen=True)
class Quantity:
    """What one rule measures.

    Attributes:
        side: ``min`` where low values are worse, ``max`` where high ones are.
        scale: ``fraction`` (of 0 to 1), ``positive``, ``real``, or ``count``: a fraction of the site's kernels, each of
            which counts or does not.
        places: Its sites.
    """

    side: Literal["min", "max"]
    scale: Scale
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Proposal:
    """A bound with all that a reader must know to judge it.

    Attributes:
        bound: In the rule's unit; None where nothing can be said.
        absolute, relative: How much worse than another good network a site may be, one of the two; None where this
            cannot be said or says nothing.
        judges: Whether the bound tells anything: it rules out enough, and the null twin where that is worse.
        reason: Why it does not; empty where it does.
        worst: The site that the bound is nearest to.
        margin: From the worst good deciding limit to the bound, in the rule's unit.
        worse: Sites at which the null twin is worse than every good network.
        told: Sites at which the bound tells the null twin from the good ones.
        rate: One-sided chance of an alarm at each site.
        dof: Degrees of freedom of each site's spread; 0 for counts.
    """

    bound: float | None
    absolute: float | None = None
    relative: float | None = None
    judges: bool = False
    reason: str = ""
    worst: Place | None = None
    margin: float = math.nan
    worse: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    rate: float = 0.0
    dof: float = 0.0


def calibrate(
    quantities: Sequence[Quantity], *, false_alarm: float, confidence: float = 0.95
) -> tuple[tuple[Proposal, ...], float]:
    """Propose a bound for each quantity, so that one more good network keeps all of them at once.

    Args:
        quantities: Measured in the same networks on the same images, at least one network.
        false_alarm: Largest probability that any rule of a further good network does not pass, in (0, 1).
        confidence: Confidence of the audit, whose one-sided limits ``limits`` are.

    Returns:
        The proposals, and the chance of an alarm that each bound at each site was given.

    Raises:
        ValueError: the rate is no probability, or there is nothing to calibrate from.
    """
    if not 0 < false_alarm < 1:
        raise ValueError(f"a false-alarm rate is between 0 and 1, not {false_alarm}")
    networks = {len(place.values) for quantity in quantities for place in quantity.places}
    if len(networks) != 1 or 0 in networks:
        raise ValueError("every site needs the same number of good networks, at least one")
    several = networks != {1}
    undefined = [_undefined(quantity, several=several) for quantity in quantities]
    pairs = sum(len(q.places) for q, reason in zip(quantities, undefined, strict=True) if not reason)
    rate = false_alarm / ((2 if several else 1) * max(pairs, 1))
    z = float(special.ndtri(confidence))
    found = [
        Proposal(None, reason=reason) if reason else _proposed(quantity, rate, z)
        for quantity, reason in zip(quantities, undefined, strict=True)
    ]
    return tuple(found), rate


def _undefined(quantity: Quantity, *, several: bool) -> str:
    """Why nothing can be said of a quantity; empty where something can."""
    for place in quantity.places:
        if not all(map(math.isfinite, (*place.values, *place.limits))):
            return f"undefined at {place.site} in one of the good networks"
    if not several and quantity.scale != "count" and all(p.values == p.limits for p in quantity.places):
        return "the images do not make it vary, so one network tells no spread"
    return ""


def _proposed(quantity: Quantity, rate: float, z: float) -> Proposal:
    if quantity.scale == "count":
        return _counted(quantity, rate)
    scale = _scale(quantity)
    sign = 1 if quantity.side == "min" else -1
    spreads, dof = _spreads(quantity, scale, z)
    k = len(quantity.places[0].values)
    # One more network against the mean of K, or other images against these.
    t = float(special.stdtrit(dof, 1 - rate))
    reach = t * math.sqrt(1 + 1 / k if k > 1 else 2)
    centres = [float(np.mean(scale.to(place.limits))) for place in quantity.places]
    ends = [scale.back(c - sign * reach * s) for c, s in zip(centres, spreads, strict=True)]
    worst = int(np.argmin(sign * np.array(ends)))
    absolute, relative = _regression(quantity, scale, [t * s for s in spreads]) if k > 1 else (None, None)
    return _told(quantity, ends[worst], worst, rate=rate, dof=dof, absolute=absolute, relative=relative)


@dataclass(frozen=True)
class _Scale:
    """A scale on which spreads compare, and its range in the rule's unit."""

    forward: Callable[[np.ndarray], np.ndarray]
    backward: Callable[[float], float]
    low: float = -math.inf
    high: float = math.inf

    def to(self, values: Sequence[float]) -> np.ndarray:
        return self.forward(np.asarray(values, dtype=float))

    def back(self, value: float) -> float:
        return float(self.backward(value))


_REAL = _Scale(lambda x: x, lambda x: x)
_SCALES = {
    "fraction": _Scale(special.logit, special.expit, 0.0, 1.0),
    "positive": _Scale(np.log, lambda x: math.exp(min(x, 700.0)), 0.0),
    "real": _REAL,
}
_RANGES = {"fraction": (0.0, 1.0), "count": (0.0, 1.0), "positive": (0.0, math.inf), "real": (-math.inf, math.inf)}


def _scale(quantity: Quantity) -> _Scale:
    """The quantity's own scale; where something lies on or beyond its ends, the plain one."""
    scale = _SCALES[quantity.scale]
    met = [x for place in quantity.places for x in (*place.values, *place.limits)]
    return scale if scale.low < min(met) and max(met) < scale.high else _REAL


def _spreads(quantity: Quantity, scale: _Scale, z: float) -> tuple[list[float], float]:
    """Standard deviation of one network's limit at each site, and its degrees of freedom."""
    k = len(quantity.places[0].limits)
    limits = [scale.to(place.limits) for place in quantity.places]
    # What the sampling of images alone makes, from the distance of the value to its limit.
    floors = [
        float(np.max(np.abs(scale.to(place.values) - limit))) / z
        for place, limit in zip(quantity.places, limits, strict=True)
    ]
    if k == 1:
        return floors, GROUPS - 1.0
    variances = np.array([limit.var(ddof=1) for limit in limits])
    sites, own = len(variances), k - 1.0
    borrowed = min(BORROWED, (sites - 1) * own)
    others = (variances.sum() - variances) / max(sites - 1, 1)
    moderated = np.sqrt((own * variances + borrowed * others) / (own + borrowed))
    return np.maximum(moderated, floors).tolist(), own + borrowed


def _regression(quantity: Quantity, scale: _Scale, reaches: Sequence[float]) -> tuple[float | None, float | None]:
    """How much worse one good network may be than another one, as a difference or, of positive ones, a part.

    ``reaches`` are t * s; the difference of two has sqrt(2) of it, half of that on either side of the mean.
    """
    differences, parts = [], []
    for place, reach in zip(quantity.places, reaches, strict=True):
        centre, half = float(np.mean(scale.to(place.values))), reach / math.sqrt(2)
        # The images' error of a difference is at most that of two audits of other images.
        pairs = zip(place.values, place.limits, strict=True)
        noise = math.sqrt(2) * max(abs(value - limit) for value, limit in pairs)
        higher, lower = scale.back(centre + half), scale.back(centre - half)
        differences.append(higher - lower + noise)
        accepted = higher if quantity.side == "min" else lower
        parts.append((higher - lower) / accepted + noise / min(place.values) if scale is _SCALES["positive"] else 0)
    if scale is _SCALES["positive"]:
        relative = _outward(max(parts), up=True)
        return None, relative if relative < 1 - _LEAST else None
    absolute = _outward(max(differences), up=True)
    low, high = _RANGES[quantity.scale]
    room = max((max(p.values) - low if quantity.side == "min" else high - min(p.values)) for p in quantity.places)
    return absolute if absolute < (1 - _LEAST) * room else None, None


def _counted(quantity: Quantity, rate: float) -> Proposal:
    """The bound of a count of kernels, where most good networks have none.

    Where counts vary more from site to site and network to network than those of independent kernels would, each
    kernel counts for less.
    """
    counts = np.array([[round(value * place.units) for value in place.values] for place in quantity.places])
    units = np.array([place.units for place in quantity.places])[:, None] * np.ones_like(counts)
    share = counts.sum() / units.sum()
    design = 1.0
    if 0 < share < 1 and counts.size > 1:
        chi = (counts - units * share) ** 2 / (units * share * (1 - share))
        design = max(1.0, float(chi.sum() / (chi.size - 1)))
    met, total = counts.sum() / design, units.sum() / design
    ends = []
    for place, seen in zip(quantity.places, counts, strict=True):
        sign = 1 if quantity.side == "max" else -1
        a, b = (met + 1, total - met) if sign > 0 else (met, total - met + 1)
        # A kernel may count for several: groups of `design` of them, so that the whole site can go at once.
        n = max(1, round(place.units / design))
        allowed = _quantile(n, max(a, 1e-9), max(b, 1e-9), rate, upper=sign > 0)
        end = allowed / n
        met_here = (max if sign > 0 else min)(seen) / place.units
        ends.append(max(end, met_here) if sign > 0 else min(end, met_here))
    worst = int(np.argmax(ends) if quantity.side == "max" else np.argmin(ends))
    several = counts.shape[1] > 1
    return _told(
        quantity,
        ends[worst],
        worst,
        rate=rate,
        dof=0.0,
        absolute=_outward(ends[worst] if quantity.side == "max" else 1 - ends[worst], up=True) if several else None,
        relative=None,
    )


def _quantile(n: int, a: float, b: float, rate: float, *, upper: bool) -> int:
    """The count that a beta-binomial of n kernels exceeds (stays below) with at most the given chance."""
    counts = np.arange(n + 1)
    log = (
        special.gammaln(n + 1)
        - special.gammaln(counts + 1)
        - special.gammaln(n - counts + 1)
        + special.betaln(counts + a, n - counts + b)
        - special.betaln(a, b)
    )
    chances = np.exp(log)
    if upper:
        beyond = chances[::-1].cumsum()[::-1] - chances  # of more than so many
        return int(np.argmax(beyond <= rate))
    below = chances.cumsum() - chances
    return int(n - np.argmax((below <= rate)[::-1]))


def _told(
    quantity: Quantity,
    bound: float,
    worst: int,
    *,
    rate: float,
    dof: float,
    absolute: float | None,
    relative: float | None,
) -> Proposal:
    """Whether a bound says anything, and how far the good networks are from it."""
    sign = 1 if quantity.side == "min" else -1
    low, high = _RANGES[quantity.scale]
    bound = min(max(_outward(bound, up=sign < 0), low), high)
    place = quantity.places[worst]
    limit = sign * min(sign * x for x in place.limits)
    known = [p for p in quantity.places if p.null is not None and math.isfinite(p.null)]
    worse = tuple(p.site for p in known if sign * float(p.null or 0.0) < min(sign * x for x in p.limits))
    told = tuple(p.site for p in known if sign * float(p.null or 0.0) < sign * bound)
    end = low if quantity.side == "min" else high
    reason = ""
    if math.isfinite(end) and abs(bound - end) <= _LEAST * abs(limit - end):
        reason = f"{quantity.side} {bound:g} is at the end of the range"
    elif len(worse) > len(known) / 2 and not told:
        reason = f"{quantity.side} {bound:g} would not even tell a network that learned nothing"
    return Proposal(
        bound,
        absolute,
        relative,
        judges=not reason,
        reason=reason,
        worst=place,
        margin=abs(limit - bound),
        worse=worse,
        told=told,
        rate=rate,
        dof=dof,
    )


def _outward(value: float, *, up: bool) -> float:
    """Round to a few digits, never towards the good networks."""
    if not value or not math.isfinite(value):
        return value
    step = 10.0 ** (math.floor(math.log10(abs(value))) - _DIGITS + 1)
    return float(f"{(math.ceil if up else math.floor)(value / step - (1e-9 if up else -1e-9)) * step:.12g}")
