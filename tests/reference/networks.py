"""Random small CNNs that write down what can be read at each of their sites, copied before anything overwrites it.

A ``Plan`` says how a network is made; it is drawn from a ``random.Random``, which may be hypothesis's. A network's
forward carries values with what is known about them, and fills a ``Tape`` where it is given one. Nothing here
knows how cnnaudit finds sites: the paths, kinds and taps are the ones that the architecture promises.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from operator import gt

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

# name: (module, function, exact values, never negative)
ACTIVATIONS = {
    "relu": (nn.ReLU, F.relu, (0.0,), True),
    "relu6": (nn.ReLU6, F.relu6, (0.0, 6.0), True),
    "hardswish": (nn.Hardswish, F.hardswish, (0.0,), False),
    "silu": (nn.SiLU, F.silu, (), False),
    "leaky": (nn.LeakyReLU, F.leaky_relu, (), False),
}


@dataclass(frozen=True)
class Act:
    """An activation; ``shared`` is the network's one in-place ReLU, ``none`` is no activation."""

    name: str
    style: str = "module"  # module, inplace, functional, functional_inplace, shared, none


@dataclass(frozen=True)
class Window:
    """A kernel sliding over a map, one number for each dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def out(self, sizes, *, ceil=False):
        rounded = math.ceil if ceil else math.floor
        return tuple(
            rounded((s + 2 * p - d * (k - 1) - 1) / t) + 1
            for s, k, t, p, d in zip(sizes, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )


@dataclass(frozen=True)
class Conv:
    inputs: int
    outputs: int
    window: Window
    groups: int = 1
    bias: bool = True
    transposed: bool = False


@dataclass(frozen=True)
class Plain:
    """Convolution, norm, activation."""

    conv: Conv
    norm: bool
    act: Act


@dataclass(frozen=True)
class Residual:
    """Two convolutions around which the input is led, as it is or through a projection."""

    first: Conv
    second: Conv
    norm: bool
    act: Act
    last: Act
    add: str  # inplace, branch_first, skip_first, function
    projection: Conv | None = None
    calls: int = 1


@dataclass(frozen=True)
class Preactivation:
    """The activation comes first; without a norm it may overwrite the value that the skip holds."""

    conv: Conv
    norm: bool
    act: Act


@dataclass(frozen=True)
class Around:
    """An addition at the top level, around a block."""

    block: Plain
    inplace: bool


@dataclass(frozen=True)
class Concat:
    branches: tuple[Plain, ...]
    with_input: bool


@dataclass(frozen=True)
class Twice:
    """One convolution called several times."""

    conv: Conv
    act: Act
    calls: int


@dataclass(frozen=True)
class Gate:
    """Squeeze and excite."""

    channels: int
    squeezed: int
    bound: str  # sigmoid, hardsigmoid
    pool: str  # module, mean


@dataclass(frozen=True)
class Pool:
    operator: str  # max, avg
    window: Window
    style: str  # module, function, root
    ceil: bool = False


@dataclass(frozen=True)
class AdaptivePool:
    operator: str
    sizes: tuple[int, ...]
    style: str  # module, root


@dataclass(frozen=True)
class Functional:
    """A convolution and a pool that are no modules."""

    conv: Conv
    act: Act
    pool: Pool


@dataclass(frozen=True)
class Head:
    pool: str  # adaptive_avg, adaptive_max, mean, amax, flatten
    classes: int


@dataclass(frozen=True)
class Plan:
    """A network and the data that it is audited on."""

    channels: int
    sizes: tuple[int, ...]
    blocks: tuple[object, ...]
    head: Head
    seed: int
    images: int
    block: int
    options: dict[str, object] = field(default_factory=dict)

    @property
    def dims(self):
        return len(self.sizes)


# --- drawing a plan -----------------------------------------------------------------------------------


class _Drawing:
    """Draws blocks that fit what flows so far."""

    def __init__(self, rng):
        self.rng = rng
        dims = rng.choice((2,) * 8 + (1, 3))
        low, high = {1: (10, 24), 2: (8, 14), 3: (5, 7)}[dims]
        self.sizes = tuple(rng.randint(low, high) for _ in range(dims))
        if rng.random() < 0.6:
            self.sizes = (self.sizes[0],) * dims
        self.channels = rng.randint(2, 3)
        self.bare = False  # whether the last value is a convolution's own, so that what follows may be its response

    def plan(self):
        rng, channels, sizes = self.rng, self.channels, self.sizes
        kinds = [self.plain, self.residual, self.preactivation, self.around, self.concat, self.twice, self.gate]
        kinds += [self.pool, self.pool, self.adaptive, self.functional, self.plain, self.residual]
        blocks = [self.plain()]
        while len(blocks) < rng.choice((3, 4, 4, 5)):
            block = rng.choice(kinds)()
            if block is not None:
                blocks.append(block)
        head = Head(rng.choice(("adaptive_avg", "adaptive_max", "mean", "amax", "flatten")), rng.randint(2, 5))
        options = {
            "bins": rng.choice((2, 5, 8)),
            "windows": rng.choice((64, 64, 10)),
            "positions": rng.choice((64, 64, 7)),
            "levels": rng.choice((None, 2, 3)),
            "estimator": rng.choice(("chao_shen", "chao_shen", "plugin", "miller_madow", "grassberger")),
            "seed": rng.randint(0, 3),
        }
        images = rng.randint(18, 60) if rng.random() < 0.9 else rng.randint(270, 300)
        block = rng.choice((4, 8, 16))
        return Plan(channels, sizes, tuple(blocks), head, rng.randint(0, 2**31), images, block, options)

    def act(self, *, none=0.2):
        if self.rng.random() < none:
            return Act("none", "none")
        name = self.rng.choice(("relu", "relu", "relu", *ACTIVATIONS))
        styles = ["module", "inplace", "functional", "functional_inplace"] + ["shared"] * 2 * (name == "relu")
        return Act(name, self.rng.choice(styles))

    def window(self, *, largest=3, stride=(1, 1, 2), dilated=True):
        rng, dims = self.rng, len(self.sizes)
        for _ in range(5):
            same = rng.random() < 0.7
            kernel = self.each(lambda: rng.randint(1, largest), same=same)
            dilation = self.each(lambda: rng.choice((1, 1, 2)), same=same) if dilated else (1,) * dims
            window = Window(
                kernel,
                self.each(lambda: rng.choice(stride), same=same),
                tuple(rng.randint(0, d * (k - 1) // 2) for k, d in zip(kernel, dilation, strict=True)),
                dilation,
            )
            if min(window.out(self.sizes)) >= 2:
                return window
        return Window((1,) * dims, (1,) * dims, (0,) * dims, (1,) * dims)

    def each(self, draw, *, same):
        return (draw(),) * len(self.sizes) if same else tuple(draw() for _ in self.sizes)

    def keeping(self, inputs, outputs, *, stride=1):
        """A convolution with odd kernels and as much padding as keeps the size."""
        rng, dims = self.rng, len(self.sizes)
        kernel = self.each(lambda: rng.choice((1, 3, 3)), same=True)
        dilation = (rng.choice((1, 1, 2)),) * dims if min(self.sizes) > 2 else (1,) * dims
        padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
        groups = rng.choice([g for g in range(1, inputs + 1) if inputs % g == 0 == outputs % g])
        window = Window(kernel, (stride,) * dims, padding, dilation)
        return Conv(inputs, outputs, window, groups, bias=rng.random() < 0.5)

    def conv(self):
        rng, inputs = self.rng, self.channels
        outputs = rng.choice((inputs, 2 * inputs, rng.randint(2, 6)))
        groups = rng.choice([g for g in range(1, inputs + 1) if inputs % g == 0 == outputs % g])
        return Conv(inputs, min(outputs, 8) // groups * groups, self.window(), groups, bias=rng.random() < 0.6)

    def plain(self):
        rng, dims = self.rng, len(self.sizes)
        conv = self.conv()
        if rng.random() < 0.1 and max(self.sizes) <= 8:
            stride = (rng.randint(1, 2),) * dims
            conv = replace(conv, window=Window((3,) * dims, stride, (1,) * dims, (1,) * dims), transposed=True)
            self.sizes = tuple((s - 1) * stride[0] + 1 for s in self.sizes)
        else:
            self.sizes = conv.window.out(self.sizes)
        self.channels = conv.outputs
        act = self.act()
        self.bare = act.name == "none"
        return Plain(conv, rng.random() < 0.6, act)

    def residual(self):
        rng, inputs = self.rng, self.channels
        outputs, stride, projection, calls = inputs, 1, None, 1
        if rng.random() < 0.4:
            outputs, stride = rng.randint(2, 6), rng.choice((1, 2)) if min(self.sizes) >= 4 else 1
            one = (1,) * len(self.sizes)
            window = Window(one, (stride,) * len(one), (0,) * len(one), one)
            projection = Conv(inputs, outputs, window, bias=rng.random() < 0.5)
        elif rng.random() < 0.2:
            calls = 2
        first = self.keeping(inputs, rng.choice((outputs, 2, 4)), stride=stride)
        second = self.keeping(first.outputs, outputs)
        self.sizes, self.channels, self.bare = first.window.out(self.sizes), outputs, False
        add = rng.choice(("inplace", "inplace", "branch_first", "skip_first", "function"))
        return Residual(first, second, rng.random() < 0.6, self.act(none=0), self.act(), add, projection, calls)

    def preactivation(self):
        norm = self.bare or self.rng.random() < 0.5
        conv, act = self.keeping(self.channels, self.channels), self.act(none=0)
        self.bare = False
        return Preactivation(conv, norm, act)

    def around(self):
        block = Plain(self.keeping(self.channels, self.channels), self.rng.random() < 0.5, self.act(none=0.5))
        self.bare = False
        return Around(block, self.rng.random() < 0.5)

    def concat(self):
        branches = tuple(
            Plain(self.keeping(self.channels, self.rng.randint(1, 3)), self.rng.random() < 0.3, self.act())
            for _ in range(self.rng.randint(1, 2))
        )
        branches = tuple(replace(b, conv=replace(b.conv, groups=1)) for b in branches)
        with_input = len(branches) == 1 or self.rng.random() < 0.5
        self.channels = sum(b.conv.outputs for b in branches) + self.channels * with_input
        self.bare = False
        return Concat(branches, with_input)

    def twice(self):
        act = self.act(none=0)
        self.bare = False
        return Twice(self.keeping(self.channels, self.channels), act, self.rng.randint(2, 3))

    def gate(self):
        self.bare = False
        bound, pool = self.rng.choice(("sigmoid", "hardsigmoid")), self.rng.choice(("module", "mean"))
        return Gate(self.channels, self.rng.randint(1, 3), bound, pool)

    def a_pool(self, sizes, styles):
        rng = self.rng
        operator = rng.choice(("max", "avg"))
        held, self.sizes = self.sizes, sizes
        window = self.window(stride=(1, 2, 2), dilated=operator == "max")
        self.sizes = held
        window = replace(window, padding=tuple(min(p, k // 2) for p, k in zip(*_pk(window), strict=True)))
        if max(window.kernel) == 1 or min(window.out(sizes)) < 2 or any(map(gt, window.kernel, sizes)):
            return None
        # With padding torch drops a window that starts in the padding at the end; without it none can.
        ceil = rng.random() < 0.3 and not any(window.padding) and max(window.dilation) == 1
        return Pool(operator, window, rng.choice(styles), ceil)

    def pool(self):
        pool = self.a_pool(self.sizes, ("module", "function", "root"))
        if pool is not None:
            self.sizes, self.bare = _pooled(pool, self.sizes), False
        return pool

    def adaptive(self):
        if min(self.sizes) < 3:
            return None
        sizes = self.each(lambda: self.rng.randint(2, 4), same=True)
        sizes = tuple(map(min, sizes, self.sizes))
        if self.rng.random() < 0.7:  # sizes that divide have windows of equal shapes
            sizes = tuple(max(d for d in range(1, s) if s % d == 0) for s in self.sizes)
        self.sizes, self.bare = sizes, False
        return AdaptivePool(self.rng.choice(("max", "avg")), sizes, self.rng.choice(("module", "root")))

    def functional(self):
        conv = self.conv()
        sizes = conv.window.out(self.sizes)
        pool = self.a_pool(sizes, ("function",))
        if pool is None:
            return None
        act = replace(self.act(none=0.2), style="functional")
        self.sizes, self.channels, self.bare = _pooled(pool, sizes), conv.outputs, False
        return Functional(conv, act, pool)


def _pk(window):
    return window.padding, window.kernel


def _pooled(pool, sizes):
    """Sizes as torch gives them, asked for on an empty map."""
    dims = len(sizes)
    given = {"stride": pool.window.stride, "padding": pool.window.padding, "ceil_mode": pool.ceil}
    if pool.operator == "max":
        given["dilation"] = pool.window.dilation
    pooled = getattr(F, f"{pool.operator}_pool{dims}d")(torch.zeros(1, 1, *sizes), pool.window.kernel, **given)
    return tuple(pooled.shape[2:])


def random_plan(rng) -> Plan:
    """Draw a plan."""
    return _Drawing(rng).plan()


def plans():
    """Plans for hypothesis."""
    return st.randoms(use_true_random=False).map(random_plan)


# --- the network ----------------------------------------------------------------------------------------


@dataclass
class Value:
    """A tensor, the values that an activation made exactly, and whether none can be negative."""

    x: torch.Tensor
    atoms: tuple[float, ...] = ()
    nonnegative: bool = False

    def copy(self):
        return Value(self.x.detach().clone(), self.atoms, self.nonnegative)


@dataclass
class Seen:
    """What should be read at a site."""

    op: str
    taps: dict[str, Value]
    window: Window | None = None
    operator: str = ""
    groups: int = 1
    outputs: int = 0
    transposed: bool = False
    steers: bool = False


class Tape:
    """The sites of one forward pass in their order, by path."""

    def __init__(self):
        self.sites: dict[str, Seen] = {}
        self.calls = Counter()
        self.labels = Counter()

    def call(self, path):
        """Path of one call of a module."""
        self.calls[path] += 1
        return path if self.calls[path] == 1 else f"{path}@{self.calls[path] - 1}"

    def functional(self, path, label):
        """Path of an operator that shares its module with others."""
        self.labels[path, label] += 1
        return f"{path}#{label}.{self.labels[path, label] - 1}"

    def site(self, path, op, **facts):
        taps = {name: facts.pop(name).copy() for name in tuple(facts) if isinstance(facts[name], Value)}
        self.sites[path] = Seen(op, taps, **facts)
        return path

    def tap(self, path, **taps):
        self.sites[path].taps |= {name: value.copy() for name, value in taps.items()}


class _Silent(Tape):
    """Takes everything and keeps nothing: for the forward that is captured."""

    def site(self, path, op, **facts):
        return path

    def tap(self, path, **taps):
        pass


def _module(kind, dims):
    return getattr(nn, f"{kind}{dims}d")


def _function(kind, dims):
    return getattr(F, f"{kind}{dims}d")


def _conv(plan: Conv) -> nn.Module:
    window = plan.window
    kind = _module("ConvTranspose" if plan.transposed else "Conv", len(window.kernel))
    return kind(
        plan.inputs,
        plan.outputs,
        window.kernel,
        window.stride,
        window.padding,
        dilation=window.dilation,
        groups=plan.groups,
        bias=plan.bias,
    )


class Block(nn.Module):
    """What all blocks have: their path, the convolution that tells its tape, activations."""

    def __init__(self, path, plan, dims, shared):
        super().__init__()
        self.path, self.plan, self.dims, self.shared = path, plan, dims, shared

    def activation(self, act):
        if act.style == "shared":
            return self.shared
        return ACTIVATIONS[act.name][0](inplace=act.style == "inplace") if act.style in ("module", "inplace") else None

    def activate(self, act, module, value):
        if act.name == "none":
            return value
        _, function, atoms, nonnegative = ACTIVATIONS[act.name]
        if module is not None:
            return Value(module(value.x), atoms, nonnegative)
        return Value(function(value.x, inplace=act.style == "functional_inplace"), atoms, nonnegative)

    def convolve(self, tape, name, plan, value, *, steers=False):
        """Call a convolution that is a module; return its path and its output."""
        output = Value(getattr(self, name)(value.x))
        path = tape.call(f"{self.path}.{name}")
        return _convolved(tape, path, plan, value, output, steers=steers), output


def _convolved(tape, path, plan, value, output, *, steers=False):
    tape.site(
        path,
        "conv",
        input=value,
        output=output,
        window=plan.window,
        groups=plan.groups,
        outputs=plan.outputs,
        transposed=plan.transposed,
        steers=steers,
    )
    return path


def _pooled_value(operator, x, value):
    if operator == "max":
        return Value(x, value.atoms, value.nonnegative)
    return Value(x, (0.0,) if 0.0 in value.atoms else (), value.nonnegative)


def _sum_value(x, left, right):
    nonnegative = left.nonnegative and right.nonnegative
    return Value(x, (0.0,) if nonnegative and 0.0 in left.atoms and 0.0 in right.atoms else (), nonnegative)


class PlainBlock(Block):
    def __init__(self, *given):
        super().__init__(*given)
        self.conv = _conv(self.plan.conv)
        self.norm = _module("BatchNorm", self.dims)(self.plan.conv.outputs) if self.plan.norm else None
        self.act = self.activation(self.plan.act)

    def forward(self, value, tape):
        path, output = self.convolve(tape, "conv", self.plan.conv, value)
        if self.norm is not None:
            output = Value(self.norm(output.x))
        output = self.activate(self.plan.act, self.act, output)
        tape.tap(path, response=output)
        return output


class ResidualBlock(Block):
    def __init__(self, *given):
        super().__init__(*given)
        plan = self.plan
        self.conv1, self.conv2 = _conv(plan.first), _conv(plan.second)
        norm = _module("BatchNorm", self.dims)
        self.norm1 = norm(plan.first.outputs) if plan.norm else None
        self.norm2 = norm(plan.second.outputs) if plan.norm else None
        self.act, self.last = self.activation(plan.act), self.activation(plan.last)
        self.projection = None if plan.projection is None else _conv(plan.projection)

    def forward(self, value, tape):
        plan, call = self.plan, tape.call(self.path)
        path, branch = self.convolve(tape, "conv1", plan.first, value)
        branch = branch if self.norm1 is None else Value(self.norm1(branch.x))
        branch = self.activate(plan.act, self.act, branch)
        tape.tap(path, response=branch)
        path, branch = self.convolve(tape, "conv2", plan.second, branch)
        branch = branch if self.norm2 is None else Value(self.norm2(branch.x))
        tape.tap(path, response=branch)
        skip = value
        if plan.projection is not None:
            path, skip = self.convolve(tape, "projection", plan.projection, value)
            tape.tap(path, response=skip)
        path = tape.site(tape.functional(call, "add"), "residual", skip=skip, branch=branch)
        if plan.add == "inplace":
            total = branch.x
            total += skip.x
        elif plan.add == "function":
            total = torch.add(branch.x, skip.x)
        else:
            total = branch.x + skip.x if plan.add == "branch_first" else skip.x + branch.x
        value = _sum_value(total, skip, branch)
        tape.tap(path, sum=value)
        return self.activate(plan.last, self.last, value)


class PreactivationBlock(Block):
    def __init__(self, *given):
        super().__init__(*given)
        self.norm = _module("BatchNorm", self.dims)(self.plan.conv.inputs) if self.plan.norm else None
        self.act = self.activation(self.plan.act)
        self.conv = _conv(self.plan.conv)

    def forward(self, value, tape):
        first = value if self.norm is None else Value(self.norm(value.x))
        active = self.activate(self.plan.act, self.act, first)
        if active.x.data_ptr() == value.x.data_ptr() if not _fake(value.x) else active.x is value.x:
            value = active  # the skip was overwritten and holds what the activation made
        path, branch = self.convolve(tape, "conv", self.plan.conv, active)
        tape.tap(path, response=branch)
        path = tape.site(tape.functional(self.path, "add"), "residual", skip=value, branch=branch)
        total = _sum_value(value.x + branch.x, value, branch)
        tape.tap(path, sum=total)
        return total


def _fake(x):
    return type(x) is not torch.Tensor


class ConcatBlock(Block):
    def __init__(self, *given):
        super().__init__(*given)
        for i, branch in enumerate(self.plan.branches):
            self.add_module(f"part{i}", PlainBlock(f"{self.path}.part{i}", branch, self.dims, self.shared))

    def forward(self, value, tape):
        parts = [self.get_submodule(f"part{i}")(value, tape) for i in range(len(self.plan.branches))]
        parts += [value] * self.plan.with_input
        atoms = tuple(sorted({a for part in parts for a in part.atoms}))
        joined = Value(torch.cat([part.x for part in parts], 1), atoms, all(p.nonnegative for p in parts))
        taps = {f"input{i}": part for i, part in enumerate(parts)}
        tape.site(tape.functional(self.path, "cat"), "concat", **taps, output=joined)
        return joined


class TwiceBlock(Block):
    def __init__(self, *given):
        super().__init__(*given)
        self.conv = _conv(self.plan.conv)
        self.act = self.activation(self.plan.act)

    def forward(self, value, tape):
        for _ in range(self.plan.calls):
            path, value = self.convolve(tape, "conv", self.plan.conv, value)
            value = self.activate(self.plan.act, self.act, value)
            tape.tap(path, response=value)
        return value


class GateBlock(Block):
    def __init__(self, *given):
        super().__init__(*given)
        one = (1,) * self.dims
        window = Window(one, one, (0,) * self.dims, one)
        self.squeeze = Conv(self.plan.channels, self.plan.squeezed, window)
        self.excite = Conv(self.plan.squeezed, self.plan.channels, window)
        self.fc1, self.fc2 = _conv(self.squeeze), _conv(self.excite)
        self.pool = _module("AdaptiveAvgPool", self.dims)(1) if self.plan.pool == "module" else None

    def forward(self, value, tape):
        if self.pool is not None:
            path, pooled = f"{self.path}.pool", self.pool(value.x)
        else:
            dims = tuple(range(2, value.x.dim()))
            path, pooled = tape.functional(self.path, "avg_pool"), value.x.mean(dims, keepdim=True)
        pooled = _pooled_value("avg", pooled, value)
        _global(tape, path, "avg", value, pooled, steers=True)
        path, squeezed = self.convolve(tape, "fc1", self.squeeze, pooled, steers=True)
        squeezed = Value(F.relu(squeezed.x), (0.0,), nonnegative=True)
        tape.tap(path, response=squeezed)
        path, gate = self.convolve(tape, "fc2", self.excite, squeezed, steers=True)
        hard = self.plan.bound == "hardsigmoid"
        bounded = F.hardsigmoid(gate.x) if hard else torch.sigmoid(gate.x)
        gate = Value(bounded, (0.0, 1.0) if hard else (), nonnegative=True)
        tape.tap(path, response=gate)
        atoms = (0.0,) if 0.0 in value.atoms or hard else ()
        gated = Value(value.x * gate.x, atoms, value.nonnegative)
        tape.site(tape.functional(self.path, "mul"), "gate", input=value, gate=gate, output=gated)
        return gated


def _global(tape, path, operator, value, pooled, *, steers=False):
    sizes = tuple(value.x.shape[2:])
    dims = len(sizes)
    window = Window(sizes, sizes, (0,) * dims, (1,) * dims)
    tape.site(path, "pool", input=value, output=pooled, window=window, operator=operator, steers=steers)


def _slide(tape, path, plan, value):
    given = {"stride": plan.window.stride, "padding": plan.window.padding, "ceil_mode": plan.ceil}
    if plan.operator == "max":
        given["dilation"] = plan.window.dilation
    function = _function(f"{plan.operator}_pool", len(plan.window.kernel))
    pooled = _pooled_value(plan.operator, function(value.x, plan.window.kernel, **given), value)
    tape.site(path, "pool", input=value, output=pooled, window=plan.window, operator=plan.operator)
    return pooled


class PoolBlock(Block):
    """A pool by module, or by function where it is all that its module does."""

    def __init__(self, *given):
        super().__init__(*given)

    def forward(self, value, tape):
        return _slide(tape, self.path, self.plan, value)


class FunctionalBlock(Block):
    def __init__(self, *given):
        super().__init__(*given)
        conv = _conv(self.plan.conv)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, value, tape):
        conv, window = self.plan.conv, self.plan.conv.window
        output = _function("conv", self.dims)(
            value.x, self.weight, self.bias, window.stride, window.padding, window.dilation, conv.groups
        )
        output = Value(output)
        path = _convolved(tape, tape.functional(self.path, "conv"), conv, value, output)
        output = self.activate(self.plan.act, None, output)
        tape.tap(path, response=output)
        return _slide(tape, tape.functional(self.path, f"{self.plan.pool.operator}_pool"), self.plan.pool, output)


BLOCKS = {
    Plain: PlainBlock,
    Residual: ResidualBlock,
    Preactivation: PreactivationBlock,
    Around: PlainBlock,
    Concat: ConcatBlock,
    Twice: TwiceBlock,
    Gate: GateBlock,
    Functional: FunctionalBlock,
}


class Network(nn.Module):
    """A network made to a plan; ``forward(x, tape)`` writes its sites down."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan = plan
        self.shared = nn.ReLU(inplace=True)
        for i, block in enumerate(plan.blocks):
            made = self._made(f"b{i}", block)
            if made is not None:
                self.add_module(f"b{i}", made)
        self.fc = nn.LazyLinear(plan.head.classes)
        kind = {"adaptive_avg": "AdaptiveAvgPool", "adaptive_max": "AdaptiveMaxPool"}.get(plan.head.pool)
        self.pool = _module(kind, plan.dims)(1) if kind else None
        with torch.no_grad():
            self.eval()(torch.zeros(2, plan.channels, *plan.sizes))
        self._initialise()
        self.train()

    def _made(self, path, block):
        dims = self.plan.dims
        if isinstance(block, Pool | AdaptivePool) and block.style == "root":
            return None
        if isinstance(block, Pool) and block.style == "function":
            return PoolBlock(path, block, dims, self.shared)
        if isinstance(block, Pool):
            given = {"stride": block.window.stride, "padding": block.window.padding, "ceil_mode": block.ceil}
            if block.operator == "max":
                given["dilation"] = block.window.dilation
            return _module(f"{block.operator.title()}Pool", dims)(block.window.kernel, **given)
        if isinstance(block, AdaptivePool):
            return _module(f"Adaptive{block.operator.title()}Pool", dims)(block.sizes)
        inner = block.block if isinstance(block, Around) else block
        return BLOCKS[type(block)](path, inner, dims, self.shared)

    @torch.no_grad()
    def _initialise(self):
        """Weights and batch norm statistics as a trained network might have them, some kernels dead."""
        generator = torch.Generator().manual_seed(self.plan.seed)

        def normal(like, scale, mean=0.0):
            like.copy_(mean + scale * torch.randn(like.shape, generator=generator))

        for parameter in self.parameters():
            if parameter.dim() > 1:
                normal(parameter, 1.5 / math.sqrt(parameter[0].numel()))
            else:
                normal(parameter, 0.3)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                normal(module.running_mean, 0.3)
                module.running_var.copy_(0.4 + torch.rand(module.running_var.shape, generator=generator))
                normal(module.weight, 0.5, 1.0)
                if torch.rand((), generator=generator) < 0.2:
                    module.bias[0] = -50.0

    def forward(self, x, tape=None):
        tape = _Silent() if tape is None else tape
        value = Value(x)
        for i, block in enumerate(self.plan.blocks):
            value = self._run(block, f"b{i}", value, tape)
        value = self._pooled(value, tape)
        flat = Value(torch.flatten(value.x, 1), value.atoms, value.nonnegative)
        output = Value(self.fc(flat.x))
        tape.site("fc", "head", input=flat, output=output)
        return output.x

    def _run(self, block, path, value, tape):
        if isinstance(block, Pool) and block.style == "root":
            return _slide(tape, tape.functional("", f"{block.operator}_pool"), block, value)
        if isinstance(block, AdaptivePool):
            return self._adapt(block, path, value, tape)
        module = self.get_submodule(path)
        if isinstance(block, Pool) and block.style == "module":
            pooled = _pooled_value(block.operator, module(value.x), value)
            tape.site(path, "pool", input=value, output=pooled, window=block.window, operator=block.operator)
            return pooled
        if isinstance(block, Around):
            return self._around(block, module, value, tape)
        for _ in range(getattr(block, "calls", 1) if isinstance(block, Residual) else 1):
            value = module(value, tape)
        return value

    def _around(self, block, module, value, tape):
        branch = module(value, tape)
        path = tape.site(tape.functional("", "add"), "residual", skip=value, branch=branch)
        total = branch.x
        if block.inplace:
            total += value.x
        else:
            total = value.x + total
        total = _sum_value(total, value, branch)
        tape.tap(path, sum=total)
        return total

    def _adapt(self, block, path, value, tape):
        if block.style == "root":
            function = _function(f"adaptive_{block.operator}_pool", self.plan.dims)
            path, pooled = tape.functional("", f"{block.operator}_pool"), function(value.x, block.sizes)
        else:
            pooled = self.get_submodule(path)(value.x)
        pooled = _pooled_value(block.operator, pooled, value)
        before = tuple(value.x.shape[2:])
        window = None
        if all(s % t == 0 for s, t in zip(before, block.sizes, strict=True)):
            kernel = tuple(s // t for s, t in zip(before, block.sizes, strict=True))
            window = Window(kernel, kernel, (0,) * len(kernel), (1,) * len(kernel))
        tape.site(path, "pool", input=value, output=pooled, window=window, operator=block.operator)
        return pooled

    def _pooled(self, value, tape):
        kind, sizes = self.plan.head.pool, tuple(value.x.shape[2:])
        if kind == "flatten":
            return value
        operator = "avg" if kind in ("adaptive_avg", "mean") else "max"
        dims = tuple(range(2, 2 + len(sizes)))
        if self.pool is not None:
            path, x = "pool", self.pool(value.x)
        else:
            path = tape.functional("", f"{operator}_pool")
            x = value.x.mean(dims) if kind == "mean" else value.x.amax(dims)
        pooled = _pooled_value(operator, x, value)
        _global(tape, path, operator, value, pooled)
        return pooled
