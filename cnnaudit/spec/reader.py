"""A rule file -> a frozen `Spec`, or every mistake in it at once.

Two independent readings of the same values: their shape (pydantic) and their meaning (names of metrics,
parameters, sources). The second reads whatever has the right type by itself, so that a mistake of shape in
one place hides no mistake of meaning in another, not even in the same rule.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeGuard

from cnnaudit.errors import LoadError, MetricError, Problem, SpecError
from cnnaudit.site import Op
from cnnaudit.spec import source, yaml
from cnnaudit.spec.extending import Extension, extend
from cnnaudit.spec.messages import NO_RULES, did_you_mean, quoted
from cnnaudit.spec.model import (
    Between,
    By,
    File,
    LoadData,
    LoadModel,
    LoadWeights,
    MaxRegression,
    Normalise,
    Reading,
    Regression,
    Rule,
    RuleEntry,
    Sampling,
    Slices,
    Spec,
    Step,
    Twin,
)
from cnnaudit.spec.shape import filled, shaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import BaseModel

    from cnnaudit.spec.vocabulary import MetricEntry, Vocabulary

__all__ = ["from_mapping", "load", "loads"]

_BOUNDS = {"min", "max", "min_excess"}


def load(path: str | Path, vocabulary: Vocabulary) -> Spec:
    """Read a rule file; its paths are relative to its own directory.

    Raises:
        SpecError: The file cannot be read or has mistakes; all of them are named.
    """
    path = Path(path)
    return _from_bytes(yaml.read(path), vocabulary, path)


def loads(text: str, vocabulary: Vocabulary, *, path: str | Path | None = None) -> Spec:
    """Read the text of a rule file.

    Args:
        text: The YAML.
        vocabulary: The metrics that rules may name.
        path: Where the text comes from: its name in messages, its directory what paths are relative to.
            Without it paths are relative to the current directory.

    Raises:
        SpecError: The text has mistakes; all of them are named.
    """
    return _from_bytes(text.encode(errors="surrogatepass"), vocabulary, Path(path) if path is not None else None)


def from_mapping(mapping: Mapping[str, Any], vocabulary: Vocabulary, *, directory: str | Path = ".") -> Spec:
    """Read rules that are written in Python, in the shape of the YAML.

    Args:
        mapping: Plain values: dict, list, text, numbers, booleans.
        vocabulary: The metrics that rules may name.
        directory: What paths are relative to.

    Raises:
        SpecError: The mapping has mistakes; all of them are named.
    """
    file = "<mapping>"
    try:
        canonical = json.dumps(mapping, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError([Problem(file, 0, 0, f"must hold plain values only: {error}")]) from None
    document = yaml.Document(json.loads(canonical), file)
    return _read(document, canonical, vocabulary, Path(directory).absolute(), None)


def _from_bytes(data: bytes, vocabulary: Vocabulary, path: Path | None) -> Spec:
    document = yaml.parse(data, "<text>" if path is None else yaml.shown(path))
    directory = Path.cwd() if path is None else path.absolute().parent
    return _read(document, data, vocabulary, directory, path)


def _read(document: yaml.Document, data: bytes, vocabulary: Vocabulary, directory: Path, path: Path | None) -> Spec:
    extension = extend(document, data, directory, () if path is None else (path.resolve(),))
    return _Reader(extension, vocabulary, directory).spec(path)


class _Meaning(NamedTuple):
    """What the names in one rule mean."""

    metric: str
    field: str
    params: Mapping[str, Any]
    worse: Literal["lower", "higher"] | None


class _Origin(NamedTuple):
    """Where a rule is written, and what it was taken over from."""

    line: int
    column: int
    file: str
    pack: str


class _Reader:
    """Reads one document and collects its problems."""

    def __init__(self, extension: Extension, vocabulary: Vocabulary, directory: Path) -> None:
        self.extension = extension
        self.document = extension.document
        self.vocabulary = vocabulary
        self.directory = directory
        self.problems = list(self.document.problems)

    def spec(self, path: Path | None) -> Spec:
        """The meaning of the whole document.

        Raises:
            SpecError: It has mistakes.
        """
        value = self._file()
        file = shaped(File, value, (), self._complain, beside=_keys_beside)
        model, weights, data_source = (self._source(role, value) for role in ("model", "weights", "data"))
        self._check_inputs(value.get("inputs"), ("inputs",))
        rules = value["rules"] if isinstance(value.get("rules"), list) else []
        meanings = [self._meaning(rule, ("rules", i)) for i, rule in enumerate(rules)]
        self._check_ids(rules)
        self._check_beside(rules, meanings)
        if self.problems or file is None:
            raise SpecError(self.problems)
        return Spec(
            path=path,
            directory=self.directory,
            sha256=self.extension.sha256,
            model=model,
            weights=weights,
            data=data_source,
            undecided=file.undecided,
            sampling=file.sampling,
            rules=tuple(
                _resolved(file, entry, meaning, self._origin(i))
                for i, (entry, meaning) in enumerate(zip(file.rules, meanings, strict=True))
                if meaning is not None  # it never is where there are no problems
            ),
            extends=self.extension.bases,
            without=file.without,
            reading=self._reading(file.data),
            inputs=file.inputs,
            head=_head(file.head),
        )

    def _origin(self, number: int) -> _Origin:
        path: yaml.Path = ("rules", number)
        file = self.document.files.get(path, "")
        return _Origin(*self.document.place(path), file, self.extension.packs[number])

    def _complain(self, path: yaml.Path, message: str, *, key: bool = False) -> None:
        self.problems.append(self.document.problem(path, message, key=key))

    def _file(self) -> dict[str, Any]:
        """The top level, without keys that have no value."""
        value: dict[str, Any] = self.document.value
        rules = value.get("rules", ...)
        if rules is None or rules == []:
            if not (self.problems and "extends" in value):  # then there might have been rules
                self._complain(("rules",), NO_RULES, key=True)
            value = {**value, "rules": []}
        kept: dict[str, Any] = filled(value, (), self._complain)
        if "sampling" in kept:
            kept["sampling"] = filled(kept["sampling"], ("sampling",), self._complain)
        if isinstance(rules, list):
            kept["rules"] = [filled(rule, ("rules", i), self._complain) for i, rule in enumerate(rules)]
        return kept

    def _source(self, role: source.Role, value: dict[str, Any]) -> source.Source | None:
        path: yaml.Path = (role,)
        written: Any = value.get(role)
        if isinstance(written, dict):
            path = (role, "load")
        else:
            written = {"load": written}
        if not isinstance(written.get("load"), str):
            return None
        prefix = {"prefix": written["prefix"]} if isinstance(written.get("prefix"), str) else {}
        options = _mapping(written.get("kwargs")) | (prefix if role == "weights" else {})
        part = written.get("part") if role == "model" else None
        try:
            return source.resolve(
                written["load"],
                base=self.directory,
                role=role,
                options=options,
                part=part if isinstance(part, str) else "",
            )
        except LoadError as error:
            self._complain(path, str(error))
            return None

    def _reading(self, data: str | LoadData | None) -> Reading:
        if not isinstance(data, LoadData):
            return Reading()
        exclude = None if data.exclude is None else self.directory.absolute() / data.exclude
        return Reading(data.transform, exclude, data.max_corrupt, data.workers)

    def _check_inputs(self, value: Any, path: yaml.Path) -> None:
        """The leaves of `inputs:` are names of what the data holds."""
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                self._check_inputs(item, (*path, key))
        elif value is not None and not isinstance(value, str):
            self._complain(path, f"inputs are named as the data names them, not {quoted(json.dumps(value))}")

    def _meaning(self, rule: Any, path: yaml.Path) -> _Meaning | None:
        """What the names in a rule mean, or None where its metric cannot be read."""
        if not isinstance(rule, dict):
            return None
        self._check_bounds(rule, path)
        if not isinstance(rule.get("metric"), str):
            self._check_override(rule, path)
            return None
        try:
            entry, field = self.vocabulary.find(rule["metric"])
        except MetricError as error:
            self._complain((*path, "metric"), str(error))
            return None
        self._check_op(rule.get("op"), entry, (*path, "op"))
        if isinstance(rule.get("at"), dict) and not entry.of_pairs:
            words = f"{entry.name} is measured at one site: at is a glob or a list of globs, not a pair"
            self._complain((*path, "at"), words)
        if rule.get("estimand") == "dataset" and field not in entry.dataset_fields:
            words = f"{entry.name}.{field} can be estimated for the population only, not for the dataset alone"
            self._complain((*path, "estimand"), words)
        worse = _worse(rule, entry.better.get(field, ""))
        if "max_regression" in rule and not worse:
            words = f"neither higher nor lower values of {entry.name}.{field} are worse: add min or max, which tells"
            self._complain((*path, "max_regression"), words, key=True)
        written = _mapping(rule.get("params"))
        params = shaped(entry.params, written, (*path, "params"), self._complain, noun="parameter")
        return _Meaning(entry.name, field, MappingProxyType(params.model_dump() if params else {}), worse)

    def _check_op(self, op: Any, entry: MetricEntry, path: yaml.Path) -> None:
        if op in list(Op) and op not in entry.ops:
            self._complain(path, f"{entry.name} is not for {op}; it is for {', '.join(sorted(entry.ops))}")

    def _check_bounds(self, rule: dict[str, Any], path: yaml.Path) -> None:
        low, high = rule.get("min"), rule.get("max")
        if _is_number(low) and _is_number(high) and low > high:
            self._complain((*path, "min"), f"min {low} is above max {high}, and no value can keep to both; change one")
        if "share" in rule and rule.get("reduce") == "mean":
            words = "share counts units and reduce: mean judges their mean: remove one of the two"
            self._complain((*path, "share"), words, key=True)
        if "min_excess" in rule and "null" not in rule:
            words = "min_excess is above what: say the null twin that is measured as well, null: twin"
            self._complain((*path, "min_excess"), words, key=True)
        # As it is written: an empty min: or a misspelt one has been complained of already.
        written = self.document.value["rules"][path[-1]].keys()
        bounded = written & {*_BOUNDS, "max_regression"} or rule.get("severity") == "note" or "metric" not in written
        if not bounded and written <= RuleEntry.model_fields.keys():
            words = "a rule needs a bound: min, max or both; with severity: note it measures and judges nothing"
            self._complain(path, words)

    def _check_override(self, rule: dict[str, Any], path: yaml.Path) -> None:
        """A rule with an id and no metric was meant to change one that is taken over."""
        if "metric" not in rule and isinstance(rule.get("id"), str) and self.extension.bases:
            rules = self.document.value["rules"]
            known = [str(other.get("id", other.get("metric"))) for other in rules if "metric" in _mapping(other)]
            words = f"no rule that is taken over has the id {quoted(rule['id'])}"
            hint = did_you_mean(rule["id"], known) or "; give the metric of a new rule"
            self._complain((*path, "id"), words + hint)

    def _check_beside(self, rules: list[Any], meanings: list[_Meaning | None]) -> None:
        """Some fields tell too little alone: the rule of another one must stand beside them."""
        judged = {
            (meaning.metric, meaning.field): i
            for i, (rule, meaning) in reversed(list(enumerate(zip(rules, meanings, strict=True))))
            if meaning and rule.keys() & _BOUNDS
        }
        for (metric, field), i in judged.items():
            other = self.vocabulary.metrics[metric].beside.get(field)
            if other and (metric, other) not in judged:
                words = (
                    f"{metric}.{field} alone says too little: a network may score well on it by being bad; "
                    f"bound {metric}.{other} in a rule beside it"
                )
                self._complain(("rules", i, "metric"), words)

    def _check_ids(self, rules: list[Any]) -> None:
        uses: dict[str, list[yaml.Path]] = defaultdict(list)
        for i, rule in enumerate(rules):
            if isinstance(rule, dict):
                key = "id" if "id" in rule else "metric"
                if isinstance(rule.get(key), str):
                    uses[rule[key]].append(("rules", i, key))
        for name, paths in uses.items():
            if len(paths) > 1:
                advice = (
                    "give each of these rules an id of its own"
                    if paths[-1][-1] == "metric"
                    else "give all but one another id"
                )
                self._complain(paths[1], f"{name} is used {self._lines(paths)}: {advice}")

    def _lines(self, paths: Iterable[yaml.Path]) -> str:
        *most, last = [str(self.document.place(path).line or f"rules[{path[1]}]") for path in paths]
        written = self.document.place(()).line
        return f"{'on lines' if written else 'by'} {', '.join(most)} and {last}"


def _resolved(file: File, entry: RuleEntry, meaning: _Meaning, origin: _Origin) -> Rule:
    by = file.by if entry.by is None else entry.by
    return Rule(
        id=entry.id or entry.metric,
        why=entry.why,
        metric=meaning.metric,
        field=meaning.field,
        params=meaning.params,
        op=entry.op,
        at=entry.at.to if isinstance(entry.at, Between) else entry.at,
        start=entry.at.from_ if isinstance(entry.at, Between) else (),
        by=_slices(by) if by else None,
        min=entry.min,
        max=entry.max,
        null=_null(entry.null),
        min_excess=entry.min_excess,
        max_regression=_regression(entry.max_regression, meaning.worse),
        share=entry.share,
        reduce=entry.reduce,
        severity=entry.severity,
        estimand=entry.estimand,
        if_absent=entry.if_absent,
        refs=entry.refs,
        marks=tuple(dict.fromkeys((*file.marks, *entry.marks))),
        **origin._asdict(),
    )


def _worse(rule: dict[str, Any], better: str) -> Literal["lower", "higher"] | None:
    """Which values are worse: those beyond a rule's only bound, or else what the metric says; None where neither."""
    low, high = bool(rule.keys() & {"min", "min_excess"}), "max" in rule
    if low != high:
        return "lower" if low else "higher"
    return {"higher": "lower", "lower": "higher"}.get(better)  # type: ignore[return-value]


def _regression(written: MaxRegression | None, worse: Literal["lower", "higher"] | None) -> Regression | None:
    if written is None or worse is None:  # it has been complained of
        return None
    return Regression(written.absolute, written.relative, worse)


def _null(written: str | Twin | None) -> str:
    """A network's name among those that are measured."""
    if isinstance(written, Twin):
        return "twin" if written.twin == "fresh" else written.twin
    return written or ""


def _head(written: str | int | None) -> str | None:
    """The keys of the logits; nothing where no output holds them."""
    if written is None:
        return None
    return "" if written is False else str(written)


def _slices(written: str | By) -> Slices:
    by = By(column=written) if isinstance(written, str) else written
    return Slices(by.column, by.min_images)


def _keys_beside(path: yaml.Path) -> Iterable[str]:
    """The keys that a rule file knows where a path ends."""
    above = tuple(part for part in path[:-1] if isinstance(part, str))
    models: Mapping[tuple[str, ...], type[BaseModel]] = {
        (): File,
        ("rules",): RuleEntry,
        ("sampling",): Sampling,
        ("by",): By,
        ("rules", "by"): By,
        ("rules", "at"): Between,
        ("rules", "null"): Twin,
        ("rules", "max_regression"): MaxRegression,
        ("model",): LoadModel,
        ("weights",): LoadWeights,
        ("data",): LoadData,
        ("data", "transform"): Step,
        ("data", "transform", "normalise"): Normalise,
    }
    return [field.alias or name for name, field in models.get(above, File).model_fields.items()]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
