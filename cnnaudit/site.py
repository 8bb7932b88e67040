"""Places in a network where information can be measured: plain facts, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping  # noqa: TC003 - what reads stored sites looks at the annotations
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

__all__ = ["PARAMETERS", "Altered", "Op", "Site", "Tap", "Variant"]

PARAMETERS = ("weight", "gamma", "beta")


class Op(StrEnum):
    """What a site does to the information that reaches it."""

    INPUT = "input"
    CONV = "conv"
    POOL = "pool"
    RESIDUAL = "residual"
    MERGE = "merge"
    CONCAT = "concat"
    GATE = "gate"
    LINEAR = "linear"
    HEAD = "head"


@dataclass(frozen=True)
class Variant:
    """A run of the network in which one value is replaced.

    Attributes:
        node: Name of the value in the captured graph; empty for the images.
        by: ``zero``; ``mean``, the value's mean over the first images; of images, which are then cut from a larger
            canvas: ``shift``, by ``amount`` pixels in each dimension, or ``crop``, by what is drawn for each image.
        amount: For ``shift`` pixels in each dimension; for ``crop`` the number of the draw, then the largest shift in
            each dimension.
    """

    node: str
    by: str
    amount: tuple[int, ...] = ()


@dataclass(frozen=True)
class Altered:
    """What a metric reads in another run than the one that is audited.

    Attributes:
        tap: What is read: one of the site's taps, or ``logits``.
        of: The tap whose value is replaced; ``image`` for the images.
        by, amount: See :class:`Variant`; the largest shift of a ``crop`` is the canvas's.
    """

    tap: str
    of: str
    by: str
    amount: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tap:
    """One tensor that may be read at a site.

    Attributes:
        node: Name of the value in the captured graph.
        shape: Shape of one image's tensor, channels first: ``(units, *spatial)``.
        atoms: Values that occur exactly and often because an activation produces them: ``(0.0,)``
            after ReLU, ``(0.0, 6.0)`` after ReLU6, empty where nothing is known.
        nonnegative: True where an activation guarantees values >= 0.
        variant: The run in which it is read; None for the network as it is.
    """

    node: str
    shape: tuple[int, ...]
    atoms: tuple[float, ...] = ()
    nonnegative: bool = False
    variant: Variant | None = None

    @property
    def spatial(self) -> tuple[int, ...]:
        """Spatial extent of the map, empty for a vector."""
        return self.shape[1:]

    @property
    def positions(self) -> int:
        """Number of positions of the map, 1 for a vector."""
        return math.prod(self.spatial)


@dataclass(frozen=True, eq=False)
class Site:
    """A node of the captured graph: a module called three times is three sites.

    Attributes:
        path: Dotted module path; ``path@1`` for a second call, ``path#add.0`` for a functional op; ``a -> b`` for a
            pair of sites.
        op: What the site does.
        units: Number of kernels (output channels).
        taps: What may be read. conv, linear: ``input``, ``output``, ``response`` (after the norm and
            activation that follow it alone), ``preactivation`` where an activation follows: what it reads. pool:
            ``input``, ``output``. residual: ``skip``, ``branch``, ``sum``. merge: ``left``, ``right``, ``sum``; where
            an activation alone follows a sum also ``preactivation`` (the sum) and ``activated``. concat: ``input0``,
            ``input1``, ..., ``branch`` (the one of them that is computed last), ``output``; where a convolution reads
            it through channel-wise operators alone also ``consumed``, what that convolution reads. gate: ``input``,
            ``gate``, ``output``. head: ``input``, ``output``. input: ``output``. A pair: ``from``, ``to``, the results
            of its two sites.
        parameters: Constants of a convolution or linear layer: ``weight``; where a batch norm with a scale follows it
            alone also ``gamma`` and ``beta``. Their shapes are those of the tensors. Of a concat with ``consumed``
            the weight of that convolution.
        kernel, stride, padding, dilation: One number for each spatial dimension; empty where the op has none. Of a
            concat with ``consumed`` those of that convolution.
        ceil_mode: True where the end of the map may cut off a pool's last windows.
        operator: Which pooling: ``max`` or ``avg``; empty elsewhere.
        groups: Channel groups of a convolution, or of the one that reads a concat.
        transposed: True for a transposed convolution.
        downsamples: True where the output map is smaller than the input map.
        is_global: True for a pool over the whole map.
        steers: True where all that is computed from here ends as the factor of a gate (squeeze-excite).
        receptive_field: Pixels of the network's input that one position sees, for each spatial dimension.
        jump: Pixels of the network's input between neighbouring positions, for each spatial dimension; 0 where a
            position sees the whole input.
        period: The shortest shift of the network's input, in pixels, that moves the map and all that it is computed
            from by whole positions, for each spatial dimension: more than ``jump`` behind upsampling.
        interior: For each spatial dimension the first position, and the one behind the last, whose whole receptive
            field lies inside the input and inside all that was cropped from it; equal where there is none.
        depends_on_all: True where every position also depends on the whole input, by a gate or a norm over positions
            that lies before it.
        macs: Multiplications of a convolution or linear layer for one image.
        macs_after: Those of all layers that are computed from the site's result.
        rank: Largest rank the op's output can have given its shape (layerspec's fair denominator).
        depth: Number of convolutions and linear layers on the longest path up to and with this site.
    """

    path: str
    op: Op
    units: int
    taps: Mapping[str, Tap] = field(default_factory=lambda: MappingProxyType({}))
    parameters: Mapping[str, Tap] = field(default_factory=lambda: MappingProxyType({}))
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    ceil_mode: bool = False
    operator: str = ""
    groups: int = 1
    transposed: bool = False
    downsamples: bool = False
    is_global: bool = False
    steers: bool = False
    receptive_field: tuple[int, ...] = ()
    jump: tuple[float, ...] = ()
    period: tuple[float, ...] = ()
    interior: tuple[tuple[int, int], ...] = ()
    depends_on_all: bool = False
    macs: int = 0
    macs_after: int = 0
    rank: int = 0
    depth: int = 0

    @property
    def source(self) -> str:
        """The tap that the site reads; empty where it has none or several."""
        return next((tap for tap in ("input", "skip") if tap in self.taps), "")

    @property
    def result(self) -> str:
        """The tap that the site hands on: after the norm and activation that follow it alone."""
        return next((tap for tap in ("response", "sum", "output") if tap in self.taps), "")

    @property
    def crossed(self) -> Site | None:
        """The site as a pair of what goes in and what comes out; None where it reads none or several values."""
        if not self.source or not self.result:
            return None
        ends = {"from": self.taps[self.source], "to": self.taps[self.result]}
        return self.with_taps(ends)

    def after(self, start: Site) -> Site:
        """This site as the end of a pair: the results of both, and all other facts its own."""
        ends = {"from": start.taps[start.result], "to": self.taps[self.result]}
        return replace(self, path=f"{start.path} -> {self.path}", taps=MappingProxyType(ends))

    def tap(self, name: str) -> str:
        """Return the tap or parameter that a metric's name for it means here.

        It is the name itself; or ``result``, what the site hands on; or at a merge, whose two sides are alike,
        ``skip`` for its left and ``branch`` for its right one.

        Raises:
            KeyError: the site has no such tap.
        """
        meant = {"result": self.result, "skip": "left", "branch": "right"}
        for found in (name, meant.get(name)):
            if found in self.taps or found in self.parameters:
                return str(found)
        raise KeyError(name)

    def has(self, name: str) -> bool:
        """Whether the site has what a metric calls so."""
        try:
            return bool(self.tap(name))
        except KeyError:
            return False

    def with_taps(self, taps: Mapping[str, Tap]) -> Site:
        """Return this site with more taps."""
        return replace(self, taps=MappingProxyType({**self.taps, **taps}))
