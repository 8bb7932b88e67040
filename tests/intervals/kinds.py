"""Uncertain quantities of every kind, drawn by hypothesis."""

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from cnnaudit.intervals import (
    Betting,
    Binomial,
    BoundedMean,
    EmpiricalBernstein,
    Exact,
    Jackknife,
    Normal,
    RareEvent,
    Shifted,
)

NAN = math.nan
finite = st.floats(-5, 5).map(lambda x: round(x, 3))
levels = st.sampled_from([0.1, 0.05, 0.01, 0.001])
many = settings(max_examples=50, deadline=None, derandomize=True)


def array(*values):
    return np.array(values, dtype=float)


def covers(interval, truth):
    low, high = interval
    return ((low <= truth) & (truth <= high)).mean()


def left_out_means(x, groups):
    """Means over the first axis with each of the groups left out."""
    return np.array([np.atleast_1d(np.delete(x, group, 0).mean(0)) for group in groups])


dofs = st.sampled_from([math.inf, 1, 5, 63])
normals = st.builds(
    lambda units, dof: Normal(array(*[v for v, _ in units]), array(*[e for _, e in units]), dof),
    st.lists(st.tuples(finite, st.floats(0.01, 3)), min_size=1, max_size=4),
    dofs,
)
shifted = st.builds(
    lambda units: Shifted(array(*[v for v, _, _ in units]), array(*[e for _, e, _ in units]),
                          floor=array(*[v - d for v, _, d in units]), bend=array(*[d / 9 for _, _, d in units])),
    st.lists(st.tuples(finite, st.floats(0.01, 3), st.floats(0, 1)), min_size=1, max_size=4),
)  # fmt: skip
jackknives = st.builds(
    lambda value, rest, sizes: Jackknife(array(value), np.array(rest[: len(sizes)])[:, None], array(*sizes)),
    finite,
    st.lists(finite, min_size=6, max_size=6),
    st.lists(st.integers(1, 9), min_size=2, max_size=6),
)
bounded = st.builds(
    lambda units, n, dof: BoundedMean(array(*[v for v, _ in units]), array(*[e for _, e in units]), n, dof=dof),
    st.lists(
        st.tuples(st.floats(0, 1) | st.sampled_from([0.0, 1.0]), st.floats(1e-4, 0.3) | st.just(0.0)),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 500),
    dofs,
)
binomials = st.integers(1, 60).flatmap(
    lambda n: st.lists(st.integers(0, n), min_size=1, max_size=4).map(lambda k: Binomial(array(*k), n))
)
rare = st.builds(RareEvent, binomials | bounded, st.sampled_from([0.01, 0.1, 0.5]))
exact = st.lists(finite, min_size=1, max_size=4).map(lambda values: Exact(array(*values)))
sequences = st.builds(
    lambda kind, start, units, repeats: kind(np.tile(array(*units).T, (repeats, 1)) + start, (start, start + 1)),
    st.sampled_from([EmpiricalBernstein, Betting]),
    st.sampled_from([0.0, -0.5]),
    st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=3),
    st.integers(1, 20),
)
