"""Rules that a file takes over: from packs, which come with this package, and from other rule files.

What results is one document in which every value still knows in which file it is written. The file's own rules come
first, so that their numbers stay; one with the id of a rule that is taken over changes it key by key, unless it names
another metric.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os.path
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnaudit.errors import LoadError, Problem, SpecError
from cnnaudit.spec import yaml
from cnnaudit.spec.messages import did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["VERSION", "Base", "Extension", "checked", "extend", "packs"]

VERSION = 1

_PREFIX = "cnnaudit:"
_SUFFIX = ".audit.yaml"


@dataclass(frozen=True)
class Base:
    """What a rule file extends.

    Attributes:
        name: Of a pack, or the path of a rule file.
        version: Of a pack; 0 for a rule file.
        sha256: Of its bytes, and of what it extends itself.
        about: What a pack is for.
    """

    name: str
    version: int
    sha256: str
    about: str = ""


@dataclass(frozen=True)
class Extension:
    """A document together with the rules that it takes over.

    Attributes:
        document: All of it.
        packs: For each rule the pack or file that it comes from, empty for the document's own.
        bases: What is extended, by the document itself or by one of these.
        sha256: Of the bytes of all of them.
    """

    document: yaml.Document
    packs: tuple[str, ...]
    bases: tuple[Base, ...]
    sha256: str


@dataclass(frozen=True)
class _Written:
    """One rule as it is written; paths are those inside of it."""

    value: Any
    pack: str = ""
    keys: Mapping[yaml.Path, yaml.Mark] = field(default_factory=dict)
    values: Mapping[yaml.Path, yaml.Mark] = field(default_factory=dict)
    files: Mapping[yaml.Path, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: yaml.Document, number: int, pack: str) -> _Written:
        start: yaml.Path = ("rules", number)

        def inside(marks: Mapping[yaml.Path, Any]) -> dict[yaml.Path, Any]:
            return {path[2:]: mark for path, mark in marks.items() if path[:2] == start}

        values = inside(document.values)
        files = dict.fromkeys(values, document.file) | inside(document.files)
        return cls(document.value["rules"][number], pack, inside(document.keys), values, files)

    @property
    def id(self) -> str:
        """The rule's id, which is that of its metric where none is written; empty where it has neither."""
        rule = self.value if isinstance(self.value, dict) else {}
        found = rule.get("id", rule.get("metric"))
        return found if isinstance(found, str) else ""

    def over(self, base: _Written | None) -> _Written:
        """This rule with what it leaves as it is in another one."""
        if base is None or self._means_another_metric(base):
            return self

        def both(mine: Mapping[yaml.Path, Any], theirs: Mapping[yaml.Path, Any]) -> dict[yaml.Path, Any]:
            return {path: mark for path, mark in theirs.items() if path and path[0] not in self.value} | dict(mine)

        return _Written(
            {**base.value, **self.value},
            base.pack,
            both(self.keys, base.keys),
            both(self.values, base.values),
            both(self.files, base.files),
        )

    def _means_another_metric(self, base: _Written) -> bool:
        return "metric" in self.value and self.value["metric"] != base.value.get("metric")


def packs() -> tuple[str, ...]:
    """Return the names of all packs."""
    return tuple(sorted(_PREFIX + name.removesuffix(_SUFFIX) for name in _files() if name.endswith(_SUFFIX)))


def _files() -> Mapping[str, Any]:
    return {file.name: file for file in (importlib.resources.files("cnnaudit.spec") / "packs").iterdir()}


def checked(document: yaml.Document) -> dict[str, Any]:
    """Return the mapping that a rule file is.

    Raises:
        SpecError: It is none, or is written for another version: then nothing else would make sense.
    """
    value = document.value
    if not isinstance(value, dict):
        words = f"a rule file must be a mapping that starts with cnnaudit: {VERSION}"
        raise SpecError([*document.problems, document.problem((), words)])
    version = value.get("cnnaudit", VERSION)
    if type(version) is not int or version != VERSION:  # True == 1 == 1.0, but neither is a version
        problem = document.problem(("cnnaudit",), f"this cnnaudit reads version {VERSION}; write cnnaudit: {VERSION}")
        raise SpecError([*document.problems, problem])
    return value


def extend(document: yaml.Document, data: bytes, directory: Path, above: tuple[Path, ...] = ()) -> Extension:
    """Take over the rules that a document extends.

    Args:
        document: A rule file; mistakes of what it extends, and of ``extends`` itself, are told as its problems.
        data: Its bytes.
        directory: What paths are relative to.
        above: The files that are being extended, this one the last.

    Raises:
        SpecError: The document is no rule file.
    """
    value = checked(document)
    digest, problems = hashlib.sha256(data), list(document.problems)
    inherited: dict[str, _Written] = {}
    bases: dict[str, Base] = {}
    for path, name in _named(value, "extends"):
        try:
            base, extension = _base(name, directory, above)
        except LoadError as error:
            problems.append(document.problem(path, str(error)))
            continue
        except SpecError as error:
            problems += error.problems
            continue
        problems += extension.document.problems
        digest.update(f"\n{name}\n{base.sha256}".encode())
        bases |= {known.name: known for known in (*extension.bases, base)}
        taken_over = {}
        for number, pack in enumerate(extension.packs):
            rule = _Written.of(extension.document, number, pack or base.name)
            if rule.id in taken_over:
                problems.append(
                    extension.document.problem(
                        ("rules", number), f"{rule.id} is used twice; give one of both rules another id"
                    )
                )
            key = rule.id or f"rule {number} of {base.name}"  # which is no id
            taken_over[key] = rule.over(inherited.get(key))
        inherited |= taken_over
    own = value.get("rules", [] if value.get("extends") else None)
    if isinstance(own, list):
        left_out = list(_left_out(document, value, inherited))
        problems += () if len(problems) > len(document.problems) else left_out  # what cannot be read may have had them
        rules = [_Written.of(replace(document, value={**value, "rules": own}), i, "") for i in range(len(own))]
        rules = [rule.over(inherited.pop(rule.id, None)) if rule.id else rule for rule in rules]
        rules += inherited.values()
        document = _assembled(document, {**value, "rules": [rule.value for rule in rules]}, rules)
        taken = tuple(rule.pack for rule in rules)
    else:
        taken = ()
    document = replace(document, problems=tuple(problems))
    return Extension(document, taken, tuple(bases.values()), digest.hexdigest())


def _named(value: dict[str, Any], key: str) -> Iterator[tuple[yaml.Path, str]]:
    """The texts of a key that holds one or several, each with its place."""
    written = value.get(key)
    if isinstance(written, str):
        yield (key,), written
    for number, name in enumerate(written if isinstance(written, list) else ()):
        if isinstance(name, str):
            yield (key, number), name


def _left_out(document: yaml.Document, value: dict[str, Any], inherited: dict[str, _Written]) -> Iterator[Problem]:
    """Take out the rules that are not wanted; yield the mistakes in naming them."""
    known = list(inherited)
    for path, name in _named(value, "without"):
        if inherited.pop(name, None) is None:
            hint = did_you_mean(name, known) or (
                f"; those are {', '.join(known)}" if known else "; nothing is extended: leave it out"
            )
            yield document.problem(path, f"no rule that is taken over has the id {quoted(name)}{hint}")


def _assembled(document: yaml.Document, value: dict[str, Any], rules: list[_Written]) -> yaml.Document:
    """A document with other rules; of what is its own the marks stay."""
    keys = {path: mark for path, mark in document.keys.items() if path[:1] != ("rules",) or len(path) == 1}
    values = {path: mark for path, mark in document.values.items() if path[:1] != ("rules",) or len(path) == 1}
    files: dict[yaml.Path, str] = {}
    for number, rule in enumerate(rules):
        start: yaml.Path = ("rules", number)
        keys |= {start + path: mark for path, mark in rule.keys.items()}
        values |= {start + path: mark for path, mark in rule.values.items()}
        files |= {start + path: file for path, file in rule.files.items() if file != document.file}
    return yaml.Document(value, document.file, keys, values, files)


def _base(name: str, directory: Path, above: tuple[Path, ...]) -> tuple[Base, Extension]:
    """What a name that is extended stands for.

    Raises:
        LoadError: It stands for nothing, or for a file that is being extended already.
        SpecError: It cannot be read.
    """
    if name in packs():
        data = _files()[name.removeprefix(_PREFIX) + _SUFFIX].read_bytes()
        document = yaml.parse(data, name)
        extension = extend(document, data, directory, above)
        about = {key: document.value[key] for key in ("version", "about")}
        return Base(name, sha256=extension.sha256, **about), extension
    if not name.endswith((".yaml", ".yml")):
        hint = did_you_mean(name, packs()) or ";"
        raise LoadError(f"{quoted(name)} is no pack{hint} the packs are {', '.join(packs())}; a file ends in .yaml")
    path = Path(os.path.normpath(directory / name))
    if path.resolve() in above:
        through = " -> ".join(yaml.shown(file) for file in (*above, path.resolve()))
        raise LoadError(f"{quoted(name)} extends itself ({through}); remove one of these")
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise LoadError(f"{quoted(name)} is no file; give its path from this rule file's folder")
    data = yaml.read(path)
    document = yaml.parse(data, yaml.shown(path))
    extension = extend(document, data, path.absolute().parent, (*above, path.resolve()))
    if not isinstance(extension.document.value.get("rules"), list):
        raise LoadError(f"{quoted(name)} has no list of rules to take over; write one under rules:")
    return Base(document.file, 0, extension.sha256), extension
