"""The report as one self-contained page: tables with interval bars, no script, nothing to load."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cnnaudit.report import bars, words
from cnnaudit.report.reproducing import facts
from cnnaudit.report.standing import LOUD, Standing, by_gravity, counts, nowhere, standings, waived
from cnnaudit.result import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jinja2 import Template

    from cnnaudit.result import Report, Verdict

__all__ = ["render"]

_APART = (Outcome.MEASURED, Outcome.NOT_APPLICABLE)


def render(report: Report) -> str:
    """Return the report as HTML, with every verdict."""
    rules = by_gravity(standings(report))
    verdict, why = words.result(report, counts(rules))
    return _template().render(
        report=report,
        verdict=verdict,
        why=why,
        rules=rules,
        anchors={rule.rule: f"rule-{i}" for i, rule in enumerate(rules, 1)},
        judged=[rule for rule in rules if rule.worst and rule.outcome not in _APART],
        only_measured=[rule for rule in rules if rule.outcome is Outcome.MEASURED],
        waivers=[found for rule in rules for found in waived(rule)],
        nowhere=nowhere(rules),
        facts=facts(report),
        regressions=any(v.side == "max_regression" for v in report.verdicts),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("cnnaudit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalized,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "Outcome": Outcome,
        "bars": bars,
        "findings": _findings,
        "images_of": _images,
        "label": _label,
        "shown": _shown,
        "units_of": _units,
        "words": words,
    }
    environment.filters |= {"beside": words.beside, "units_of": _units}
    return environment.get_template("report.html.j2")


def _finalized(value: Any) -> Any:
    """What a page can show of a text; what the template itself has made is left as it is."""
    return words.plain(value) if type(value) is str else value


def _label(outcome: Outcome) -> str:
    return outcome.upper().replace("_", " ")


def _units(verdict: Verdict) -> str:
    """What the row must tell of units: nothing where the rule's heading has told it."""
    if verdict.reduce == "mean" or verdict.units.total < 2 or verdict.value is None:
        return ""
    return words.units(verdict) if verdict.side else words.span(verdict)


def _images(verdict: Verdict, report: Report) -> str:
    """What there is to say of the images beside their number."""
    return words.images(verdict, report).partition(" read")[2].strip(", ")


def _shown(rule: Standing) -> list[Verdict]:
    """All sites where the rule was judged or measured, what is wrong first, else in the network's order."""
    found = [v for v in rule.verdicts if v.outcome is not Outcome.NOT_APPLICABLE or not v.site]
    if rule.outcome is Outcome.MEASURED:
        return found
    first = (*LOUD, Outcome.WAIVED)
    return [*(v for outcome in first for v in rule.of(outcome)), *(v for v in found if v.outcome not in first)]


def _findings(verdicts: Sequence[Verdict]) -> Iterator[dict[str, Any]]:
    """What the sites' numbers mean and what to do: told once for all sites of which the same is said."""
    found: dict[tuple[Outcome, str, str], list[Verdict]] = {}
    for v in verdicts:
        if v.detail or v.advice:
            found.setdefault((v.outcome, v.detail, v.advice), []).append(v)
    for (outcome, detail, advice), mine in found.items():
        places = [v.place for v in mine if v.site]
        yield {
            "outcome": outcome,
            "detail": detail,
            "advice": "" if outcome is Outcome.WAIVED else advice,
            "places": places,
        }
