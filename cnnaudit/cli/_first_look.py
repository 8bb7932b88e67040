"""What ``profile`` prints: a line for each site, where to look first, and what was measured on what."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tabulate import tabulate

from cnnaudit.errors import MetricError
from cnnaudit.metrics import registry
from cnnaudit.report.words import number
from cnnaudit.site import Op

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cnnaudit.flow import Flow
    from cnnaudit.result import Estimate
    from cnnaudit.site import Site

__all__ = ["METRICS", "describe"]

_WIDTH = 118
_DORMANT = 0.025  # arXiv 2302.12902
_INPUTS = 4
_FAR = 1e9  # above every share and ratio, so that the smallest goes farthest
_LOOK_FIRST = "Look first (>) at; cnnaudit explain METRIC says what it means"


def describe(flow: Flow, seconds: float, *, compact: bool) -> str:
    """Return a measured network as text of at most 120 columns, but for long names.

    Args:
        flow: What was measured.
        seconds: How long it took.
        compact: One line a site, in the words of a first look; else a line for each metric, in its own words.
    """
    found = _first_look(flow) if compact else _in_full(flow)
    parts = [_sites(flow, found.cells, found.marked), *found.sections, *_facts(flow, seconds)]
    return "\n\n".join(parts)


@dataclass(frozen=True)
class _Found:
    """Cells of each site's line or lines, the sites that are marked, and what is told below."""

    cells: Mapping[str, list[str]]
    marked: frozenset[str] = frozenset()
    sections: tuple[str, ...] = ()


def _sites(flow: Flow, cells: Mapping[str, list[str]], marked: frozenset[str]) -> str:
    rows = []
    for site in flow.sites:
        if site.op is Op.INPUT:
            continue
        tap = site.taps.get("output") or site.taps.get("sum")
        kind = f"{site.operator} {site.op}".strip()
        size = "x".join(map(str, tap.spatial)) if tap else ""
        first, *more = cells.get(site.path) or [""]
        rows.append([">" if site.path in marked else "", site.path, kind, site.units, size, first])
        rows += [["", "", "", "", "", line] for line in more]
    headers = ["", "site", "op", "units", "map", "measured"]
    table = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=["left"] * 3 + ["right"])
    return "\n".join(line.rstrip() for line in table.splitlines())


@dataclass(frozen=True)
class _At:
    """The estimates of a metric's fields at one site, as far as they apply there."""

    site: Site
    fields: Mapping[str, Estimate]

    def told(self, field: str, digits: int = 3) -> str:
        found = self.fields[field]
        value, low, high = (_short(x, digits) for x in (found.value, found.low, found.high))
        return value if math.isnan(found.value) else f"{value} [{low}, {high}]"

    def value(self, field: str) -> float:
        return self.fields[field].value

    def count(self, field: str, least: float, most: float = math.inf) -> int:
        return sum(least <= value <= most for value in self.fields[field].units)


@dataclass(frozen=True)
class _End:
    """What is worth a look where it is largest.

    Attributes:
        title: What that is.
        far: How far a site goes; it is not worth a look at 0 and below.
        told: What is said of the site, given all of them.
    """

    title: str
    far: Callable[[_At], float]
    told: Callable[[_At, Sequence[_At]], str]


@dataclass(frozen=True)
class _Words:
    """How a metric is told.

    Attributes:
        metric: Its name.
        cells: What is said of a site, as many texts at each; an empty one where there is nothing to say.
        ends: What is worth a look.
        legend: What is meant; {images} stands for their number, {missed} for the largest share of images that may yet
            activate a kernel which no image did.
    """

    metric: str
    cells: Callable[[_At], Sequence[str]]
    ends: Sequence[_End]
    legend: str


def _first_look(flow: Flow) -> _Found:
    lines: dict[str, list[str]] = {}
    ends: list[list[str]] = []
    legend = []
    for words in _WORDS:
        if words.metric not in flow.metrics:
            continue
        places, broken = _places(flow, words.metric)
        for path, line in (_aligned({at.site.path: words.cells(at) for at in places}) | broken).items():
            lines.setdefault(path, []).append(line)
        ends += [row for end in words.ends for row in _extreme(end, places, words.metric)]
        legend.append(words.legend.format(images=flow.n_images, missed=1 - 0.05 ** (1 / max(flow.n_images, 1))))
    sections = ["\n".join(map(_wrapped, legend))] if legend else []
    if ends:
        table = tabulate(ends, tablefmt="plain", disable_numparse=True)
        sections.insert(0, f"{_LOOK_FIRST}\n{textwrap.indent(table, '  ')}")
    marked = frozenset(row[1] for row in ends)
    return _Found({path: ["  ".join(parts).rstrip()] for path, parts in lines.items()}, marked, tuple(sections))


def _places(flow: Flow, metric: str) -> tuple[list[_At], dict[str, str]]:
    """The estimates at each site, and what went wrong at the others."""
    fields = {name: flow[f"{metric}.{name}"] for name in registry()[metric].fields}
    places, broken = [], {}
    for site in flow.sites:
        try:
            held = {name: found[site.path] for name, found in fields.items() if site.path in set(found)}
        except MetricError as error:
            broken[site.path] = str(error)
            continue
        if held:
            places.append(_At(site, held))
    return places, broken


def _aligned(cells: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Lines whose parts begin at the same column at each site."""
    widths = [max(map(len, column)) for column in zip(*cells.values(), strict=True)]
    return {
        path: "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True) if width)
        for path, row in cells.items()
    }


def _extreme(end: _End, places: Sequence[_At], metric: str) -> Iterator[list[str]]:
    worst = max((at for at in places if end.far(at) > 0), key=end.far, default=None)
    if worst is not None:
        yield [end.title, worst.site.path, end.told(worst, places), metric]


def _activity(at: _At) -> list[str]:
    zeros = "dead" in at.fields
    constant = at.count("always_on", 1)
    return [
        f"dead {at.count('dead', 1) if zeros else '-'}",
        f"dormant {at.count('dormant', -math.inf, _DORMANT)}",
        f"constant {constant}" if constant else "",
        f"zeros {_short(at.value('apoz'), 2) if zeros else '-'}",
    ]


def _share_of(field: str) -> Callable[[_At], float]:
    return lambda at: at.count(field, 1) / len(at.fields[field].units) if field in at.fields else 0


def _kernels(field: str) -> Callable[[_At, Sequence[_At]], str]:
    def told(worst: _At, places: Sequence[_At]) -> str:
        able = [at.count(field, 1) for at in places if field in at.fields]
        own = f"{worst.count(field, 1)} of {len(worst.fields[field].units)}"
        return f"{own}; {sum(able):,} in all, at {sum(map(bool, able))} of {len(able)} sites"

    return told


def _least(field: str, title: str) -> _End:
    """The site where a field is smallest."""
    return _End(
        title,
        lambda at: -at.value(field) + _FAR,
        lambda at, places: f"{at.told(field)}; the largest is {_short(max(p.value(field) for p in places))}",
    )


def _class_information(at: _At) -> list[str]:
    units = [value for value in at.fields["information"].units if not math.isnan(value)]
    return [f"class {at.told('information', 2)}", f"best {_short(max(units), 2)}" if units else ""]


def _alternative(at: _At) -> tuple[float, str]:
    """How much less the better one of the other usual pools would lose, and which that is."""
    others = [name for name in ("max", "avg") if name != at.site.operator]
    best = min(others, key=lambda name: at.value(f"relative_{name}"))
    return at.value("relative") - at.value(f"relative_{best}"), best


def _pool(at: _At) -> list[str]:
    less, best = _alternative(at)
    other = f"{best} would lose {_short(at.value(f'relative_{best}'))}" if less > 0 else ""
    return [f"loses {at.told('relative')} of a window's entropy", other]


def _branch(at: _At) -> list[str]:
    return [f"branch {at.told('share')} of the variance", f"correlation {_short(at.value('correlation'))}"]


def _gate(at: _At) -> list[str]:
    return [f"gate {at.told('mean')}", f"varies by {at.told('between_images')}"]


def _concat(at: _At) -> list[str]:
    shares = at.fields["share"].units
    if len(shares) <= _INPUTS:
        return [f"inputs {', '.join(map(_short, shares))}"]
    return [f"{len(shares)} inputs {_short(min(shares))} to {_short(max(shares))}"]


def _least_input(at: _At) -> str:
    shares = at.fields["share"].units
    return f"{_short(min(shares))}, input {shares.index(min(shares))} of 0 to {len(shares) - 1}"


_DEAD = (
    "dead: kernels that are zero everywhere on these {images:,} images; one that {missed:.1%} of images activate may "
    f"be among them (95 %). dormant: mean response at most {_DORMANT} of the layer's. constant: hardly ever zero, "
    "and hardly varies. zeros: share of exact zeros. -: no activation follows that makes any."
)

_WORDS = (
    _Words(
        "activity",
        _activity,
        (
            _End("most dead kernels", _share_of("dead"), _kernels("dead")),
            _End("most constant kernels", _share_of("always_on"), _kernels("always_on")),
        ),
        _DEAD,
    ),
    _Words(
        "class_information",
        _class_information,
        (),
        (
            "class: bits about the label in a kernel's mean response, the mean over kernels, and of the best one. "
            "Early kernels are meant to know little."
        ),
    ),
    _Words(
        "pool_entropy_loss",
        _pool,
        (
            _End(
                "pool that another would beat",
                lambda at: _alternative(at)[0],
                lambda at, places: f"{_alternative(at)[1]} would lose {_short(_alternative(at)[0])} less",  # noqa: ARG005 - as all ends are told
            ),
        ),
        (
            "loses: share of the entropy of a pool's windows, at a few levels; where another pool would lose less, "
            "that is told. Compare pools with windows of one size only."
        ),
    ),
    _Words(
        "branch_variance_share",
        _branch,
        (_least("share", "weakest branch"),),
        (
            "branch: what the residual branch brings of the sum's variance; the skip brings the rest. correlation: of "
            "the two. Low shares are usual deep in a network; near 0 the block does nothing."
        ),
    ),
    _Words(
        "concat_share",
        _concat,
        (
            _End(
                "weakest input",
                lambda at: _FAR - min(at.fields["share"].units),
                lambda at, places: _least_input(at),  # noqa: ARG005 - see above
            ),
        ),
        ("inputs: what each input of a concatenation brings of the variance of the convolution that reads it."),
    ),
    _Words(
        "gate_activity",
        _gate,
        (_least("between_images", "steadiest gate"),),
        ("gate: its mean, and how much it varies from image to image, relative to that; near 0 it is a constant."),
    ),
)
METRICS = tuple(words.metric for words in _WORDS)


def _in_full(flow: Flow) -> _Found:
    """A line for each metric that was named, with the range of the units."""
    cells: dict[str, list[str]] = {}
    for name in flow:
        for path in flow[name]:
            try:
                found = flow[name][path]
                line = f"{name} {number(found.value)} [{number(found.low)}, {number(found.high)}] {found.unit}"
                units = [value for value in found.units if not math.isnan(value)]
                if len(units) > 1:
                    line += f"; {number(min(units))} to {number(max(units))} over {len(units)} units"
            except MetricError as error:
                line = str(error)
            cells.setdefault(path, []).append(line)
    return _Found(cells)


def _facts(flow: Flow, seconds: float) -> Iterator[str]:
    model, data, settings = flow.model, flow.data, flow.settings
    weights = f" with {model['weights']}" if model["weights"] else ""
    shape = " x ".join(map(str, model["input_shape"]))
    n, available = data["n_images"], data["available"]
    lines = {
        "model": f"{model['source']}{weights}: {_large(model['parameters'])} parameters, "
        f"{_large(model['macs'])} multiplications an image",
        "images": f"{n:,}{f' of {available:,}' if available and available != n else ''} of {data['source']}, {shape}, "
        + (f"labels of {flow.classes} classes" if flow.classes else "no labels, so nothing is told of classes")
        + f"; order {data['order']}, seed {settings['seed']}",
        "transform": data["transform"] or "none",
        "run": f"{settings['mode']} mode, {settings['dtype']}, {settings['device']}, {seconds:.0f} s; intervals at "
        f"{settings['confidence'] * 100:g} %",
    }
    told = [_wrapped(text, f"{name:<10} ") for name, text in lines.items()]
    yield "\n".join([*told, *(_wrapped(text, f"{'note':<10} ") for text in _notes(flow)), *_warnings(flow), _NEXT])


def _notes(flow: Flow) -> list[str]:
    """What a reader must know and is not warned of."""
    return [text for text in flow.notes if not (flow.model["untrained"] and text.startswith("No `weights:`"))]


def _warnings(flow: Flow) -> Iterator[str]:
    """What makes the numbers mean little."""
    if flow.model["untrained"]:
        yield _wrapped(
            "The weights are random: this is what an untrained network does. Give --weights FILE, or --kwarg "
            "pretrained=true (timm) or --kwarg weights=DEFAULT (torchvision).",
            "WARNING    ",
        )
    if flow.data["source"] == "synthetic":
        yield _wrapped(
            "The images are noise that was made up: the network runs, and how it treats images is not known. Give "
            "--data.",
            "WARNING    ",
        )


_NEXT = "next       Write what must hold into a rule file (docs/rules.md), and cnnaudit check it."


def _short(value: float, digits: int = 3) -> str:
    return "undefined" if math.isnan(value) else f"{value:.{digits}g}"


def _large(count: int) -> str:
    for name, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return str(count)


def _wrapped(text: str, start: str = "") -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
