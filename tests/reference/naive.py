"""Every statistic and every metric once more, from the stored activations of all images, in plain float64 numpy.

Written from the docstrings and shared/SCIENCE.md, for clarity and not for speed; of the implementation only the
hash that draws positions is used (``sample_positions``), and only where a map has more than are wanted.
Arrays are ``(images, units, *spatial)``; groups are one number for each image.
"""

# ruff: noqa: PLR0917 - a formula takes what it is made of by position

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import torch
from scipy.special import digamma

from cnnaudit.statistics import sample_positions

# --- sampled positions and windows ------------------------------------------------------------------


def drawn(ids, site, seed, positions, wanted):
    """Positions read for each image: all of them, or those that the hash draws."""
    if positions <= wanted:
        return np.tile(np.arange(positions), (len(ids), 1))
    return sample_positions(torch.as_tensor(ids), site, seed, positions, wanted).numpy()


def full_windows(sizes, window):
    """For each window that lies wholly on the map, in raster order, the positions of its entries."""
    starts = [
        [s for s in range(-p, size + p, t) if s >= 0 and s + (k - 1) * d < size]
        for size, k, t, p, d in zip(sizes, window.kernel, window.stride, window.padding, window.dilation, strict=True)
    ]
    offsets = list(
        itertools.product(*(range(0, k * d, d) for k, d in zip(window.kernel, window.dilation, strict=True)))
    )
    found = {}
    for number, at in enumerate(itertools.product(*(range(len(s)) for s in starts))):
        corner = [s[i] for s, i in zip(starts, at, strict=True)]
        found[at] = (number, [tuple(c + o for c, o in zip(corner, offset, strict=True)) for offset in offsets])
    return found


def read_windows(x, ids, site, seed, window, wanted):
    """Sampled windows, shape (images, windows, entries, units)."""
    windows = [entries for _, entries in full_windows(x.shape[2:], window).values()]
    chosen = drawn(ids, site, seed, len(windows), wanted)
    return np.stack(
        [
            np.stack([np.stack([x[(i, slice(None), *at)] for at in windows[w]]) for w in chosen[i]])
            for i in range(len(x))
        ]
    )


def read_neighbours(x, ids, site, seed, window, wanted):
    """Two windows beside each other in each dimension, and two inputs where the first of them starts."""
    windows = full_windows(x.shape[2:], window)
    dims = len(window.kernel)
    pairs = list(itertools.product((0, 1), repeat=dims))
    corners = [
        at for at in windows if all(tuple(a + p for a, p in zip(at, pair, strict=True)) in windows for pair in pairs)
    ]
    if not corners:
        return None
    chosen = drawn(ids, f"{site} blocks", seed, len(corners), wanted)
    outputs, inputs = [], []
    for i in range(len(x)):
        for c in chosen[i]:
            at = corners[c]
            block = [windows[tuple(a + p for a, p in zip(at, pair, strict=True))][1] for pair in pairs]
            outputs.append([[x[(i, slice(None), *entry)] for entry in entries] for entries in block])
            first = windows[at][1][0]
            inputs.append([x[(i, slice(None), *(f + p for f, p in zip(first, pair, strict=True)))] for pair in pairs])
    shape = (len(x), len(chosen[0]), len(pairs))
    outputs, inputs = np.array(outputs), np.array(inputs)
    return outputs.reshape(*shape, -1, x.shape[1]), inputs.reshape(*shape, x.shape[1])


# --- grids --------------------------------------------------------------------------------------------


def grid(sample, levels):
    """Inner edges of one kernel's equiprobable grid, an exact zero having a level of its own."""
    ordered = sorted(sample.tolist())
    n, inner = len(ordered), levels - 1
    negative, zero = sum(v < 0 for v in ordered), sum(v == 0 for v in ordered)
    positive = n - negative - zero

    def cut(place):
        if n == 1:
            return ordered[0]
        rank = min(max(round(place), 1), n - 1)
        return (ordered[rank - 1] + ordered[rank]) / 2

    if not zero:
        edges = [cut(Fraction((j + 1) * n, levels)) for j in range(inner)]
    else:
        below = 0
        if negative:
            below = min(max(round(Fraction(inner * negative, negative + positive)), 1), inner)
            if positive and below == inner and inner > 1:
                below = inner - 1
        above = inner - below
        edges = [cut(Fraction((j + 1) * negative, below)) for j in range(below - 1)]
        edges += [0.0] * (below > 0)
        if above:
            smallest = float(np.finfo(np.float64).tiny)
            edges += [smallest]
            edges += [cut(negative + zero + Fraction(j * positive, above)) for j in range(1, above)]
    return np.maximum.accumulate(np.array(edges))


def grids(sample, levels):
    """Edges of all kernels from a sample of shape (n, kernels)."""
    return np.stack([grid(sample[:, k], levels) for k in range(sample.shape[1])])


def level(values, edges):
    """Number of edges at or below each value."""
    return sum((np.asarray(values) >= edge).astype(np.int64) for edge in edges)


def level_means(sample, edges):
    """Mean of the sample in each level; the middle of the edges of an empty one."""
    levels = level(sample, edges)
    ends = [edges[0], *edges, edges[-1]]
    return np.array(
        [
            math.fsum(sample[levels == j]) / (levels == j).sum() if (levels == j).any() else (ends[j] + ends[j + 1]) / 2
            for j in range(len(edges) + 1)
        ]
    )


def is_close_call(values, edges, tolerance):
    """Whether a rounding error could move one of these values over an edge; exact zeros never move."""
    values = np.asarray(values).reshape(-1)
    values = values[values != 0]
    return any((abs(values - e) <= tolerance * np.maximum(abs(values), abs(e))).any() for e in edges)


# --- tallies ------------------------------------------------------------------------------------------


def by_group(amount, group, groups):
    """Sums over the images of each group, shape (groups, ...)."""
    total = np.zeros((groups, *amount.shape[1:]), dtype=amount.dtype)
    for image, g in zip(amount, group, strict=True):
        total[g] += image
    return total


def magnitude(x):
    """Mean magnitude of each map."""
    return abs(x.reshape(*x.shape[:2], -1)).mean(2)


def activity(x, a, group, groups):
    """ActivityTally, given the mean magnitudes."""
    flat = x.reshape(*x.shape[:2], -1)
    z = (flat == 0).sum(2)
    mean = a.mean(1, keepdims=True)
    amounts = {
        "active": (flat != 0).any(2).astype(np.int64),
        "zeros": z,
        "zeros2": z**2,
        "a": a,
        "a2": a**2,
        "a_mean": a * mean,
        "mean": mean,
        "mean2": mean**2,
    }
    return {name: by_group(amount, group, groups) for name, amount in amounts.items()}


def responses(x):
    """Mean response of each kernel over its map."""
    return x.reshape(*x.shape[:2], -1).mean(2)


def class_counts(response, labels, edges):
    """ClassHistogram, given its edges."""
    kernels, bins = len(edges), edges.shape[1] + 1
    counts = np.zeros((kernels, max(labels) + 1, bins), dtype=np.int64)
    for k in range(kernels):
        for r, y in zip(level(response[:, k], edges[k]), labels, strict=True):
            counts[k, y, r] += 1
    return counts


def class_moments(response, labels, half):
    """ClassMoments: images, sources, sums and sums of squares; row 2 c + h is class c in half h."""
    rows = 2 * labels + half
    images = np.concatenate([np.ones((len(response), 2)), response, response**2], 1)
    return np.array([images[rows == row].sum(0) for row in range(rows.max() + 1)])


def active(window, atoms):
    return ~np.isin(window, list(atoms))


def distinct(window, atoms):
    """Number of different active values of each window, shape (images, windows, units)."""
    found = np.zeros((*window.shape[:2], window.shape[3]), dtype=np.int64)
    for n, w, u in np.ndindex(found.shape):
        found[n, w, u] = len(set(window[n, w, :, u].tolist()) - set(atoms))
    return found


def survivors(window, atoms):
    """Whether what max, average, min and stride make of each window is active."""
    on = active(window, atoms)
    return {
        "max": active(window.max(2), atoms),
        "avg": on.any(2),
        "min": active(window.min(2), atoms),
        "stride": on[:, :, 0],
    }


def activity_tally(read, kept, group, groups):
    """WindowActivity from what each image read, (images, units), and kept, (images, operators, units)."""
    amounts = {"read": read, "read2": read**2, "kept": kept, "kept2": kept**2, "kept_read": kept * read[:, None]}
    return {name: by_group(amount, group, groups) for name, amount in amounts.items()}


def pool_activity(window, atoms):
    """What a pool's windows hold and could keep, for each image."""
    kept = survivors(window, atoms)
    return distinct(window, atoms).sum(1), np.stack([kept[o] for o in ("max", "avg", "min", "stride")], 2).sum(1)


def conv_activity(x, window, atoms, conv_groups, outputs, ids, site, seed, wanted):
    """What the tiles of a strided convolution hold and could keep, for each image and channel group."""
    dims = len(window.stride)
    tile = type(window)(window.stride, window.stride, (0,) * dims, (1,) * dims)
    on = active(read_windows(x, ids, site, seed, tile, wanted), atoms)
    images, windows, entries, channels = on.shape
    on = on.reshape(images, windows, entries, conv_groups, channels // conv_groups)
    reached = [
        i
        for i, at in enumerate(itertools.product(*map(range, window.stride)))
        if all(
            any((e * d - p - a) % t == 0 for e in range(k))
            for a, k, d, p, t in zip(at, window.kernel, window.dilation, window.padding, window.stride, strict=True)
        )
    ]
    read = on.sum((2, 4))
    kept = np.minimum(on[:, :, reached].sum((2, 4)), outputs // conv_groups)
    return read.sum(1), kept.sum(1)[:, None]


def joint(codes, levels, group, groups):
    """Joint histogram of codes (images, windows, entries) of one kernel, first entry the least significant."""
    counts = np.zeros((groups, levels ** codes.shape[2]), dtype=np.int64)
    for image, g in zip(codes, group, strict=True):
        for window in image:
            counts[g, sum(int(c) * levels**i for i, c in enumerate(window))] += 1
    return counts


def pooled_code(codes, operator, edges, centres):
    """Level of what an operator makes of quantised windows, entries last, and whether it was a close call."""
    if operator == "max":
        return codes.max(-1), False
    if operator == "min":
        return codes.min(-1), False
    if operator == "stride":
        return codes[..., 0], False
    values = centres[codes].mean(-1)
    return level(values, edges), is_close_call(values, edges, 1e-12)


def pair(skip, branch, ids, group, groups, site, seed, wanted):
    """PairMoments, two-pass."""
    s, f = (t.reshape(*t.shape[:2], -1) for t in (skip, branch))
    chosen = drawn(ids, site, seed, s.shape[2], wanted)
    rows = defaultdict(list)
    for i, g in enumerate(group):
        for p in chosen[i]:
            rows[g].append((s[i, :, p], f[i, :, p]))
    channels = s.shape[1]
    names = ("mean_s", "mean_f", "ss", "ff", "sf")
    tally = {"rows": np.zeros((groups, 1))} | {name: np.zeros((groups, channels)) for name in names}
    for g, values in rows.items():
        a, b = (np.array(side) for side in zip(*values, strict=True))
        tally["rows"][g] = len(a)
        tally["mean_s"][g], tally["mean_f"][g] = a.mean(0), b.mean(0)
        a, b = a - a.mean(0), b - b.mean(0)
        tally["ss"][g], tally["ff"][g], tally["sf"][g] = (a * a).sum(0), (b * b).sum(0), (a * b).sum(0)
    return tally


# --- metrics -------------------------------------------------------------------------------------------


def activity_values(x, a):
    """activity: one value a kernel, given the mean magnitudes."""
    flat = x.reshape(*x.shape[:2], -1)
    strength = a.mean(0)
    with np.errstate(invalid="ignore"):
        dormant = strength / strength.mean()
    return {
        "dead": (flat == 0).all((0, 2)).astype(float),
        "apoz": (flat == 0).mean((0, 2)),
        "dormant": dormant,
    }


def entropy(counts, estimator="plugin"):
    """Entropy in bits of one list of counts."""
    counts = [int(c) for c in counts if c]
    n = sum(counts)
    if not n:
        return 0.0
    plugin = -math.fsum(c / n * math.log2(c / n) for c in counts)
    if estimator == "plugin":
        return plugin
    if estimator == "miller_madow":
        return plugin + (len(counts) - 1) / (2 * n * math.log(2))
    if estimator == "grassberger":

        def g(c):
            return digamma(c) + (-1) ** c * (digamma((c + 1) / 2) - digamma(c / 2)) / 2

        return (math.log(n) - math.fsum(c * g(c) for c in counts) / n) / math.log(2)
    single = sum(c == 1 for c in counts)
    coverage = 1 - (single - (single == n)) / n
    total = []
    for c in counts:
        p = coverage * c / n
        total.append(-p * math.log2(p) / (1 - (1 - p) ** n))
    return math.fsum(total)


def expected_information(rows, columns):
    """Mean mutual information over all tables with these margins, by exact hypergeometric probabilities."""
    n = sum(rows)
    total = []
    for a, b in itertools.product(rows, columns):
        for x in range(max(1, a + b - n), min(a, b) + 1):
            p = math.comb(a, x) * math.comb(n - a, b - x) / math.comb(n, b)
            total.append(p * x / n * math.log2(n * x / (a * b)))
    return math.fsum(total)


def grassberger(counts):
    """Grassberger's entropy by his recurrence.

    G(1) = -gamma - ln 2, G(2) = G(1) + 2, G(2m + 1) = G(2m), G(2m + 2) = G(2m) + 2 / (2m + 1).
    """
    n = sum(int(v) for v in counts)
    even = [2 - np.euler_gamma - math.log(2)]
    while 2 * len(even) < n:
        even.append(even[-1] + 2 / (2 * len(even) + 1))
    g = [math.nan, even[0] - 2, *(even[k // 2 - 1] for k in range(2, n + 1))]
    return (math.log(n) - math.fsum(v * g[v] for v in map(int, counts) if v) / n) / math.log(2)


def class_information(counts, *, estimator="corrected"):
    """class_information from counts of shape (kernels, classes, bins): one value a kernel."""
    found = defaultdict(list)
    for table in counts:
        rows, columns = [int(v) for v in table.sum(1)], [int(v) for v in table.sum(0)]
        plugin = entropy(rows) + entropy(columns) - entropy(table.ravel())
        value = chance = plugin
        if estimator != "plugin":
            value = max(0.0, grassberger(rows) + grassberger(columns) - grassberger(table.ravel()))
            chance = plugin - expected_information(rows, columns)
        h = entropy(rows)
        most = min(h, math.log2(table.shape[1]))
        value = min(value, most)
        found["information"].append(value)
        found["chance_adjusted"].append(chance)
        found["uncertainty_coefficient"].append(value / h if h else math.nan)
        found["normalised"].append(value / most if most else math.nan)
    return {name: np.array(values) for name, values in found.items()}


def eligible(labels, half):
    """Classes with at least two images in each half, and those with at least two in all."""
    met = sorted(set(labels))
    both = [c for c in met if all(((labels == c) & (half == h)).sum() >= 2 for h in (0, 1))]
    return both, [c for c in met if (labels == c).sum() >= 2]


def crossfit(score, value, classes):
    """Values of both halves for the class with the highest score on the other half."""
    return [value[h][max(classes, key=lambda c: (score[1 - h][c], -c))] for h in (0, 1)]


def selectivity(response, labels, half, tolerance):
    """class_selectivity_index: one value a kernel; None where rounding could choose another class."""
    both, classes = eligible(labels, half)
    found = {"crossfit": [], "plugin": []}
    for r in response.T:
        halves = [{c: r[(labels == c) & (half == h)].mean() for c in both} for h in (0, 1)]
        for name, parts in (("crossfit", halves), ("plugin", [{c: r[labels == c].mean() for c in classes}])):
            if len(parts[0]) < 2 or not all(any(part.values()) for part in parts):
                found[name].append(math.nan)
                continue
            value = [{c: (m[c], (sum(m.values()) - m[c]) / (len(m) - 1)) for c in m} for m in parts]
            chosen = crossfit(parts, value, both) if name == "crossfit" else [max(value[0].values())]
            index = sum(a - b for a, b in chosen) / sum(a + b for a, b in chosen)
            first = [sorted(part.values())[-2:] for part in parts]
            found[name].append(None if any(b - a <= tolerance * b for a, b in first) else index)
    return found


def auroc(counts, c):
    """AUROC of a class against the others, from counts of shape (classes, levels)."""
    positive, negative = counts[c], counts.sum(0) - counts[c]
    below = np.concatenate([[0], negative.cumsum()[:-1]])
    pairs = int(positive.sum() * negative.sum())
    if not pairs:
        return math.nan
    return Fraction(int((positive * (2 * below + negative)).sum()), 2 * pairs)


def ties(counts, c, atoms):
    """Half of the share of pairs that tie in a level whose values may differ."""
    positive, negative = counts[c], counts.sum(0) - counts[c]
    pairs = positive.sum() * negative.sum()
    return (positive * negative)[~atoms].sum() / pairs / 2 if pairs else math.nan


def class_auroc(counts, labels, half, atoms):
    """class_auroc from counts of shape (2, kernels, classes, levels): one value a kernel."""
    both, classes = eligible(labels, half)
    found = defaultdict(list)
    for k in range(counts.shape[1]):
        whole = [auroc(counts[:, k].sum(0), c) for c in classes]
        found["plugin_best"].append(float(max(whole)) if whole else math.nan)
        if not both:
            for name in ("best", "anti", "resolution"):
                found[name].append(math.nan)
            continue
        area = [{c: auroc(counts[h, k], c) for c in both} for h in (0, 1)]
        lost = [{c: 1 - area[h][c] for c in both} for h in (0, 1)]
        width = [{c: ties(counts[h, k], c, atoms[k]) for c in both} for h in (0, 1)]
        found["best"].append(float(sum(crossfit(area, area, both)) / 2))
        found["anti"].append(float(sum(crossfit(lost, lost, both)) / 2))
        found["resolution"].append(float(sum(crossfit(area, width, both)) / 2))
    return found


def dimension_loss(read, kept, operator):
    """pool_information_dimension_loss from what each image read and kept: one value a unit."""
    with np.errstate(invalid="ignore", divide="ignore"):
        losses = 1 - kept.sum(0) / read.sum(0)
    if not operator:
        return {"loss": losses[0]}
    found = dict(zip(("max", "avg", "min", "stride"), losses, strict=True))
    return {"loss": found[operator]} | found


def held(counts, estimator):
    """Entropy of a window's values: nothing where all are alike, whatever a correction makes of that."""
    counts = [c for c in counts if c]
    return max(0.0, entropy(counts, estimator)) if len(counts) > 1 else 0.0


def entropy_loss(codes, outputs, inputs, operator, grids_, centres, levels, estimator):
    """pool_entropy_loss from levels of windows (images, windows, entries, kernels); None for a close call."""
    found = defaultdict(list)
    kernels = codes.shape[-1]
    for k in range(kernels):
        windows = codes[..., k].reshape(-1, codes.shape[2])
        whole = held(Counter(map(tuple, windows.tolist())).values(), estimator)
        for name in ("max", "avg", "min", "stride"):
            result, close = pooled_code(windows, name, grids_[k], centres[k])
            kept = held(Counter(result.tolist()).values(), estimator)
            lost = max(0.0, whole - kept)
            relative = lost / whole if whole else math.nan
            found[f"relative_{name}"].append(None if close else relative)
            if name == operator:
                found["relative"].append(None if close else relative)
                found["bits"].append(None if close else lost)
        ratio = math.nan
        if outputs is not None:
            after, before = (
                held(Counter(map(tuple, c[..., k].reshape(-1, c.shape[2]).tolist())).values(), estimator)
                for c in (outputs, inputs)
            )
            ratio = after / before if before else (math.nan if not after else math.inf)
        found["density_ratio"].append(ratio)
    return dict(found)


def variance_share(skip, branch, ids, site, seed, wanted):
    """branch_variance_share: one value a site; None where the denominator is nothing but rounding."""
    s, f = (t.reshape(*t.shape[:2], -1) for t in (skip, branch))
    chosen = drawn(ids, site, seed, s.shape[2], wanted)
    s, f = (np.stack([t[i][:, chosen[i]] for i in range(len(t))], 1).reshape(t.shape[1], -1) for t in (s, f))
    y = s + f

    def cov(a, b):
        return ((a - a.mean(1, keepdims=True)) * (b - b.mean(1, keepdims=True))).mean(1)

    def is_noise(t):
        return cov(t, t) < 1e-25 * (t**2).mean(1)

    vary = {"share": y, "skip_share": y, "standardised": y, "ratio": s[:0], "correlation": np.concatenate([s, f])}
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nanmean of nothing
        found = {
            "share": cov(f, y).sum() / cov(y, y).sum(),
            "skip_share": cov(s, y).sum() / cov(y, y).sum(),
            "standardised": np.nanmean(cov(f, y) / cov(y, y)),
            "ratio": np.sqrt((f**2).sum() / (s**2).sum()),
            "correlation": cov(s, f).sum() / np.sqrt(cov(s, s).sum() * cov(f, f).sum()),
        }
    return {name: None if is_noise(vary[name]).any() else value for name, value in found.items()}
