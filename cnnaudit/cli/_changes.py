"""The words of ``cnnaudit diff``."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from cnnaudit.report.as_text import number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cnnaudit.gate.changes import Changes, Difference, SiteChange

__all__ = ["FORMATS"]

_SECTIONS = ("model", "data", "rules", "settings", "coverage")
_HEADERS = ("outcome", "rule", "site", "A", "B", "change", "interval", "towards", "how")
_DIGEST = 64
_WIDTH = 110


def _text(found: Changes, names: tuple[str, str], *, everything: bool) -> str:
    """Plain text."""
    parts = ["\n".join(f"{letter}  {line}" for letter, line in _headings(found, names))]
    width = max(map(len, _SECTIONS))
    lines = []
    for section in _SECTIONS:
        told = list(_differences(getattr(found, section)))
        lines += [f"{section:<{width}}  {told[0] if told else 'the same'}", *(f"{'':<{width}}  {t}" for t in told[1:])]
    parts.append("\n".join(lines))
    rows = [_row(site) for site in _listed(found, everything=everything)]
    if rows:
        parts.append(tabulate(rows, headers=_HEADERS, tablefmt="simple", disable_numparse=True))
    parts += [textwrap.fill(line, _WIDTH, break_on_hyphens=False) for line in _last(found, everything=everything)]
    return "\n\n".join(parts) + "\n"


def _markdown(found: Changes, names: tuple[str, str], *, everything: bool) -> str:
    """Markdown, for a comment in a review."""
    parts = ["\n".join(f"- **{letter}** {_escaped(line)}" for letter, line in _headings(found, names))]
    differences = [[section, _escaped(told)] for section in _SECTIONS for told in _differences(getattr(found, section))]
    if differences:
        parts.append(_pipes(differences, ("of", "difference")))
    rows = [[_escaped(cell) for cell in _row(site)] for site in _listed(found, everything=everything)]
    if rows:
        parts.append(_pipes(rows, _HEADERS))
    parts += [_escaped(line) for line in _last(found, everything=everything)]
    return "\n\n".join(parts) + "\n"


def _json(found: Changes, names: tuple[str, str], *, everything: bool) -> str:
    """JSON: all differences; of the sites those that changed, or every one."""
    body = found.to_dict() | {"a": names[0], "b": names[1]}
    body["unchanged"] = sum(not site.changed for site in found.sites)
    body["sites"] = [site for site in body["sites"] if everything or site["changed"]]
    return json.dumps(body, indent=2, sort_keys=True, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[..., str]] = {"text": _text, "json": _json, "markdown": _markdown}


def _headings(found: Changes, names: tuple[str, str]) -> Iterator[tuple[str, str]]:
    for letter, name, code in zip("AB", names, (found.old_exit, found.new_exit), strict=True):
        yield letter, f"{name}: {'passed' if code == 0 else f'not passed, exit code {code}'}"


def _differences(pairs: Sequence[Difference]) -> Iterator[str]:
    for pair in pairs:
        yield f"{pair.name}: {_shown(pair.old)} -> {_shown(pair.new)}"


def _shown(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == _DIGEST else str(value)


def _listed(found: Changes, *, everything: bool) -> list[SiteChange]:
    return [site for site in found.sites if everything or site.changed]


def _row(site: SiteChange) -> list[str]:
    outcomes = [_outcome(site.old_outcome, site.old_waived), _outcome(site.new_outcome, site.new_waived)]
    interval = "" if site.low is None else f"[{site.low:+.4g}, {site.high:+.4g}]"
    return [
        outcomes[0] if outcomes[0] == outcomes[1] else " -> ".join(outcomes),
        site.rule,
        site.place,
        "" if site.old is None else number(site.old),
        "" if site.new is None else number(site.new),
        "" if site.change is None else f"{site.change:+.4g}",
        interval,
        site.towards,
        f"{site.how}, {site.of}" if site.how else site.of,
    ]


def _outcome(outcome: str | None, waived: str) -> str:
    told = "none" if outcome is None else outcome.replace("_", " ")
    return f"{told} ({waived})" if waived else told


def _last(found: Changes, *, everything: bool) -> Iterator[str]:
    """What is not in the table, or must be known to read it."""
    if found.uncompared:
        yield found.uncompared
    reasons = Counter(site.why for site in found.sites if site.why and site.why != found.uncompared)
    yield from (f"No interval at {count} of the sites: {why}." for why, count in reasons.items())
    unpaired = {site.of for site in found.sites if site.how == "unpaired"}
    if unpaired:
        units = " Deciding units need not be the same kernel." if "deciding unit" in unpaired else ""
        yield f"unpaired: told by the two intervals alone, as if the images had nothing in common.{units}"
    moves = sorted(found.moves.items(), key=str)
    told = [f"{_outcome(a, '')} -> {_outcome(b, '')} {n}" for (a, b), n in moves if a != b]
    if alone := sum(n for (a, b), n in moves if a == b):
        told.append(f"without another outcome {alone}")
    same = Counter(site.new_outcome for site in found.sites if not site.changed)
    changed = sum(site.changed for site in found.sites)
    yield (
        f"{changed} of {len(found.sites)} verdicts changed"
        + (f": {', '.join(told)}" if told else "")
        + f". {len(found.sites) - changed} did not"
        + (f" ({', '.join(f'{_outcome(o, str())} {n}' for o, n in same.items())})" if same else "")
        + ("." if everything or not same else "; --all lists them.")
    )


def _pipes(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _escaped(text: str) -> str:
    for mark in "\\`*_|<":
        text = text.replace(mark, f"\\{mark}")
    return text
