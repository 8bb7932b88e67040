"""``cnnaudit waive``: put on record that somebody answers for a result until a day."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.gate.waivers import Waiver
    from cnnaudit.result import Report, Verdict

__all__ = ["command"]

_CATEGORIES = ("accepted_risk", "false_positive", "wont_fix", "in_progress")
_NEEDED = ("owner", "reason", "category", "approved_by", "expires")


_EXAMPLE = """\b
cnnaudit check net.audit.yaml --format json=report.json
cnnaudit waive no-dead-kernels --site 'stage3.**' --report report.json \\
    --owner 'Ada Ito' --approved-by 'Bo Lind' --category in_progress \\
    --reason 'Pruned too far; retraining is under way.' --expires 2027-01-31
"""


@click.command(epilog=_EXAMPLE, short_help="Accept a failure: by whom, why and until when.")
@click.argument("rule")
@click.option("--site", metavar="GLOB", help="Sites that it is for, such as 'stage3.**'. Default: all of the rule.")
@click.option("--slice", "slice_", metavar="GLOB", help="Slices that it is for, such as scanner=A. Default: all.")
@click.option(
    "--model", metavar="MODEL", help="The model it is for: its sha256 or a glob over its source. Default: any."
)
@click.option("--owner", help="Who answers for it and mends it.  [required]")
@click.option("--reason", help="Why the result is acceptable for now.  [required]")
@click.option("--category", type=click.Choice(_CATEGORIES), help="What kind of decision it is.  [required]")
@click.option("--approved-by", help="Who approved it; not the owner.  [required]")
@click.option("--approved-on", metavar="DATE", help="The day of the approval. Default: today.")
@click.option("--expires", metavar="DATE", help="The last day on which it holds.  [required]")
@click.option("--ticket", help="Where the work is tracked.")
@click.option("--worst", type=float, help="The worst value accepted. Default: the worst in the report.")
@click.option(
    "--report",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The audit's JSON report, in which the results to be waived are looked up.",
)
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("cnnaudit.waivers.yaml"),
    show_default=True,
    help="Where to append; it is written when it does not exist.",
)
def command(rule: str, slice_: str | None, report: Path | None, path: Path, **options: Any) -> None:
    """Append a waiver of RULE's results to a file, which `cnnaudit check --waivers FILE` then applies.

    Dates are days in UTC, such as 2027-01-31. Nothing that the file holds is changed, and nothing is written where
    the result would have a mistake.
    """
    from cnnaudit.clock import today  # noqa: PLC0415 - pydantic is imported when it is needed, not for --help
    from cnnaudit.gate.waiver_file import append  # noqa: PLC0415
    from cnnaudit.gate.waivers import meant  # noqa: PLC0415

    missing = [f"--{key.replace('_', '-')}" for key in _NEEDED if options[key] is None]
    if missing:
        raise click.UsageError(f"a waiver needs {', '.join(missing)} as well")
    entry = {
        "rule": rule,
        "site": options["site"],
        "slice": slice_,
        **{key: options[key] for key in ("model", "owner", "reason", "category", "approved_by")},
        "approved_on": options["approved_on"] or today().isoformat(),
        **{key: options[key] for key in ("expires", "ticket", "worst")},
    }
    entry = {key: value for key, value in entry.items() if value is not None}
    waiver = _checked(entry)
    if waiver.expires < today():
        raise click.UsageError(f"--expires: {waiver.expires} is over; today is {today()} (UTC)")
    if report is None and options["worst"] is None:
        raise click.UsageError("say the --worst value that is accepted, or give the --report to take it from")
    told = f"the worst value accepted is {waiver.worst}"
    if report is not None:
        found = _failing(waiver, _read(report), report)
        entry |= _worst(waiver, found)
        told = _told(found, entry.get("worst"))
    line = append(path, entry, today())
    click.echo(f"{path}:{line}: waives {meant(waiver)} up to and on {waiver.expires}; {told}")


def _checked(entry: dict[str, Any]) -> Waiver:
    """The waiver that the options say.

    Raises:
        UsageError: they have mistakes; all of them are named.
    """
    from cnnaudit.gate.waiver_file import check  # noqa: PLC0415

    mistakes: list[str] = []

    def complain(path: tuple[str | int, ...], message: str, *, key: bool = False) -> None:  # noqa: ARG001
        name = str(path[0]).replace("_", "-")
        mistakes.append(message if name == "rule" else f"--{name}: {message}")

    waiver = check(entry, complain)
    if waiver is None:
        raise click.UsageError("\n       ".join(mistakes))
    return waiver


def _read(path: Path) -> Report:
    from cnnaudit.errors import EvidenceError  # noqa: PLC0415
    from cnnaudit.result import Report  # noqa: PLC0415

    try:
        return Report.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise EvidenceError(f"{path}: cannot be read ({error}); check the path and its permissions") from None
    except EvidenceError as error:
        raise EvidenceError(f"{path}: {error}; write one with `cnnaudit check --format json={path}`") from None


def _failing(waiver: Waiver, report: Report, path: Path) -> list[Verdict]:
    """The results that there are to waive; those that are waived already may be waived for longer.

    Raises:
        EvidenceError: there are none.
    """
    from cnnaudit.errors import EvidenceError  # noqa: PLC0415
    from cnnaudit.gate.waivers import is_for, why_nothing  # noqa: PLC0415
    from cnnaudit.result import Outcome  # noqa: PLC0415

    waivable = (Outcome.FAIL, Outcome.UNDECIDED, Outcome.WAIVED)
    found = [v for v in report.verdicts if v.outcome in waivable and is_for(waiver, v, report.model)]
    if not found:
        raise EvidenceError(
            f"{path}: nothing to waive: {why_nothing(waiver, report)}; narrow or widen --rule and --site"
        )
    return found


def _worst(waiver: Waiver, found: Sequence[Verdict]) -> dict[str, float]:
    """The worst value that is accepted, empty where the results have none.

    Raises:
        EvidenceError: no one value covers all results, or the one that was given does not.
    """
    from cnnaudit.errors import EvidenceError  # noqa: PLC0415
    from cnnaudit.gate.waivers import lower_is_worse, outward, value_of  # noqa: PLC0415

    values = [value for v in found if (value := value_of(v)) is not None]
    without = [v.place or v.rule for v in found if value_of(v) is None]
    if without and (values or waiver.worst is not None):
        words = "have no value, and are waived apart from those that have one: narrow --site or --slice"
        raise EvidenceError(f"{', '.join(without)} {words}")
    if not values:
        return {}
    sides = {v.side: v.place or v.rule for v in found}
    if len(sides) > 1:
        told = ", ".join(f"{side} at {place}" for side, place in sides.items())
        raise EvidenceError(f"these results break different bounds ({told}), and have no worst value: narrow --site")
    lower = lower_is_worse(found[0].side)
    worst = min(values) if lower else max(values)
    if waiver.worst is None:
        return {"worst": outward(worst, down=lower)}
    if worst < waiver.worst if lower else worst > waiver.worst:
        raise EvidenceError(f"--worst {waiver.worst:g} does not go so far as the report: the worst there is {worst}")
    return {"worst": waiver.worst}


def _told(found: Sequence[Verdict], worst: float | None) -> str:
    results = f"{len(found)} result{'s' * (len(found) != 1)} ({', '.join(v.place or v.rule for v in found[:6])}"
    results += f" and {len(found) - 6} more)" if len(found) > 6 else ")"
    return f"{results}, " + ("which have no value" if worst is None else f"worst value accepted {worst}")
