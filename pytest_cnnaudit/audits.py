"""Audits with the options of the session; tests of rules share one, whose report is kept where all workers find it.

What is kept is the report, not the statistics: a worker that finds it loads no model and does not even import torch.
It lives as long as the session, because between two of them the code that the audit ran may have changed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from cnnaudit.errors import CnnAuditError, LoadError
from cnnaudit.result import Report
from pytest_cnnaudit.fixtures import NOT_GIVEN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cnnaudit.flow import Flow
    from cnnaudit.spec import Spec

__all__ = ["alone", "close", "folder", "profile", "reports", "shared"]

_FOLDER = pytest.StashKey[Path]()
_REPORTS = pytest.StashKey[dict[str, Report]]()


def folder(config: pytest.Config) -> Path:
    """Return the session's folder of finished audits; the workers of one machine share it."""
    shared = Path(getattr(config, "workerinput", {}).get("cnnaudit_folder", ""))
    if shared.is_absolute() and shared.is_dir():
        return shared
    if _FOLDER not in config.stash:
        config.stash[_FOLDER] = Path(tempfile.mkdtemp(prefix="cnnaudit-"))
    return config.stash[_FOLDER]


def close(config: pytest.Config) -> None:
    """Remove the folder, where it is this process's own."""
    if _FOLDER in config.stash:
        shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


def reports(config: pytest.Config) -> list[Report]:
    """Return the reports of all audits that were finished, by the paths of their rule files."""
    found = [Report.from_json(path.read_text(encoding="utf-8")) for path in sorted(folder(config).glob("*.json"))]
    return sorted(found, key=lambda report: str(report.spec["path"]))


def shared(request: pytest.FixtureRequest, spec: Spec, rules: Sequence[str]) -> Report:
    """Audit some rules of a file, unless another test of its rules has done so in this session.

    Raises:
        CnnAuditError: the audit could not be carried out, here or where it was tried first.
    """
    options = [request.config.getoption(f"cnnaudit_{name}") for name in ("device", "max_images", "trust_model")]
    wanted = [str(spec.path and spec.path.resolve()), spec.sha256, list(rules), options, *_files(spec)]
    if spec.model is None or spec.data is None:
        wanted.append(_origin(request))
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()
    known = request.config.stash.setdefault(_REPORTS, {})
    if key not in known:
        narrowed = replace(spec, rules=tuple(rule for rule in spec.rules if rule.id in rules))
        path = folder(request.config) / key
        known[key] = _stored(path, lambda: _decided(request, lambda: _audit(request, narrowed), narrowed, spec, path))
    return known[key]


def alone(request: pytest.FixtureRequest, spec: Spec, *, model: Any = None, data: Any = None) -> Report:
    """Audit for one test: what it names or gives may have changed since any other did.

    A model or data that neither the call nor the rules give comes from fixtures.

    Raises:
        CnnAuditError: the audit could not be carried out.
    """
    path = folder(request.config) / uuid.uuid4().hex
    audit = lambda: _audit(request, spec, model=model, data=data)  # noqa: E731 - it is passed on
    return _stored(path, lambda: _decided(request, audit, spec, spec, path))


def _decided(request: pytest.FixtureRequest, run: Callable[[], Report], spec: Spec, whole: Spec, path: Path) -> Report:
    from pytest_cnnaudit import gate  # noqa: PLC0415 - it imports this module

    return gate.decided(request.config, run, spec, whole, path)


def _files(spec: Spec) -> Iterator[tuple[str, int, int]]:
    """What tells that a file which a spec names was written anew."""
    for source in (spec.model, spec.weights, spec.data):
        path = Path(source.target) if source else None
        if path is not None and path.is_file():
            stat = path.stat()
            yield str(path), stat.st_size, stat.st_mtime_ns


def _origin(request: pytest.FixtureRequest) -> str:
    """Which fixtures a rule's model or data comes from: the test's without its rule."""
    test, _, parameters = request.node.name.removesuffix("]").partition("[")
    callspec = getattr(request.node, "callspec", None)
    values = callspec.params if callspec else {}
    names = list(values)
    if "cnnaudit_rule" in values:
        rule = str(values["cnnaudit_rule"].rule)
        if names[0] == "cnnaudit_rule":
            parameters = parameters.removeprefix(rule).removeprefix("-")
        elif names[-1] == "cnnaudit_rule":
            parameters = parameters.removesuffix(rule).removesuffix("-")
    else:
        test = ""  # a test of a rule file is named after the rule
    return f"{request.node.parent.nodeid}::{test}::{parameters}"


def _stored(path: Path, run: Callable[[], Report]) -> Report:
    finished, failed = path.with_suffix(".json"), path.with_suffix(".error")
    with FileLock(path.with_suffix(".lock")):
        if not finished.exists() and not failed.exists():
            try:
                _write(finished, run().to_json())
            except Exception as error:
                # Whatever went wrong would go wrong again for every other rule of the file.
                told = str(error) if isinstance(error, CnnAuditError) else f"{type(error).__name__}: {error}"
                _write(failed, told)
                raise
    if failed.exists():
        raise CnnAuditError(failed.read_text(encoding="utf-8"))
    return Report.from_json(finished.read_text(encoding="utf-8"))


def _write(path: Path, text: str) -> None:
    """Write a file that is whole as soon as it exists."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _audit(request: pytest.FixtureRequest, spec: Spec, *, model: Any = None, data: Any = None) -> Report:
    from cnnaudit import pipeline  # noqa: PLC0415 - torch is imported when a model is audited, not before

    model, data = _given(request, spec, model, data)
    most = _fewer(request, spec.sampling.max_images)
    spec = replace(spec, sampling=spec.sampling.model_copy(update={"max_images": most}))
    with _session(request, model) as options:
        return pipeline.audit(spec, model=model, data=data, **options)


def profile(request: pytest.FixtureRequest, model: Any, data: Any, *, rules: Any, max_images: int | None) -> Flow:
    """Measure a model; see :func:`cnnaudit.profile`.

    Raises:
        CnnAuditError: it could not be measured.
    """
    from cnnaudit import flow  # noqa: PLC0415 - see _audit

    spec = flow.rule_file(rules)
    model, data = _given(request, spec, model, data)
    most = _fewer(request, max_images if max_images is not None or spec is None else spec.sampling.max_images)
    with _session(request, model) as options:
        return flow.profile(model, data, rules=spec or rules, max_images=most, **options)


def _fewer(request: pytest.FixtureRequest, images: int | None) -> int | None:
    most: int | None = request.config.getoption("cnnaudit_max_images")
    return images if most is None else min(most, images or most)


def _given(request: pytest.FixtureRequest, spec: Spec | None, model: Any, data: Any) -> tuple[Any, Any]:
    if model is None and (spec is None or spec.model is None):
        model = request.getfixturevalue("cnnaudit_model")
        model = _usual_model(request) if model is NOT_GIVEN else model
        _check_given(spec, "model", model)
    if data is None and (spec is None or spec.data is None):
        data = request.getfixturevalue("cnnaudit_data")
        _check_given(spec, "data", data)
        if isinstance(data, Iterator):
            raise LoadError(
                "cnnaudit_data gave an iterator, which can be read once only: return a list or a DataLoader"
            )
    return model, data


def _check_given(spec: Spec | None, what: str, value: Any) -> None:
    if value is None:
        raise LoadError(f"the fixture cnnaudit_{what} returned None; return what is audited, or leave the fixture out")
    if value is NOT_GIVEN:
        named = "" if spec is None else f"{spec.name}: no `{what}:`, and "
        raise LoadError(
            f"{named}no fixture gives the {what}: name it in the rule file, or write a fixture "
            f'@pytest.fixture(scope="session") def cnnaudit_{what}() in conftest.py'
        )


def _usual_model(request: pytest.FixtureRequest) -> Any:
    """What a fixture ``model`` gives, as suites for pytest-torch have it."""
    try:
        return request.getfixturevalue("model")
    except pytest.FixtureLookupError as error:
        if error.argname != "model":
            raise
        return NOT_GIVEN


@contextmanager
def _session(request: pytest.FixtureRequest, model: Any) -> Iterator[dict[str, Any]]:
    """What the session says of every audit: where it runs, and that it may read and import what is below rootdir."""
    device = request.config.getoption("cnnaudit_device")
    import torch  # noqa: PLC0415

    live = isinstance(model, torch.nn.Module)
    _share_processors()
    with _moved(model, device) if live and device else nullcontext():
        root = request.config.rootpath.as_posix()
        yield {
            "device": None if live else device,
            "allow_imports": [f"{root}/**"],
            "allow_paths": [f"{root}/**"],
            "trust_model": request.config.getoption("cnnaudit_trust_model"),
        }


def _share_processors() -> None:
    """Leave the other xdist workers their processors."""
    import torch  # noqa: PLC0415

    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // workers)))


@contextmanager
def _moved(model: Any, device: str) -> Iterator[None]:
    """Have a live model on a device, and afterwards back where it was."""
    home = next((tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())), device)
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        told = str(error).splitlines()[0]
        raise LoadError(f"device {device!r} cannot be used ({told}); name another, such as cpu") from error
    try:
        yield
    finally:
        model.to(home)
