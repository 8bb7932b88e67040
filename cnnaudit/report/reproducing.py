"""What somebody needs who wants the same numbers again: digests, versions, seed, device, images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnnaudit.report.words import gate, number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnaudit.result import Report

__all__ = ["facts"]

_SHA256 = 64


def facts(report: Report) -> dict[str, str]:
    """Return what a report says of itself, by name, as far as it does; digests in full length."""
    told: dict[str, list[str]] = {}
    for part in (_rules, _network, _images, _run, _versions):
        for name, value in part(report):
            told.setdefault(name, []).append(value)
    for name, value in gate(report, digits=_SHA256):
        told.setdefault(name, []).append(value)
    return {name: "; ".join(values) for name, values in told.items()}


def _rules(report: Report) -> Iterator[tuple[str, str]]:
    spec = report.spec
    yield "rules", f"{spec['path']} (sha256 {spec['sha256']})"
    for base in spec.get("extends") or ():
        version = f"version {base['version']}" if base.get("version") else ""
        digest = f"sha256 {base['sha256']}" if base.get("sha256") else ""
        known = ", ".join(filter(None, (version, digest)))
        yield "extends", f"{base['name']} ({known})" if known else str(base["name"])
    if spec.get("without"):
        yield "without", ", ".join(spec["without"])


def _network(report: Report) -> Iterator[tuple[str, str]]:
    model = report.model
    weights = f" with {model['weights']}" if model.get("weights") else ""
    sites = ", ".join(f"{n} {op}" for op, n in model.get("sites", {}).items())
    yield "model", f"{model['source']}{weights}" + (f": {sites}" if sites else "")
    yield "parameters and buffers", f"sha256 {model['sha256']}"


def _images(report: Report) -> Iterator[tuple[str, str]]:
    data = report.data
    of = f" of {data['available']:,}" if data.get("available") and data["available"] != data["n_images"] else ""
    sources = f" of {data['sources']:,} sources" if data.get("sources") else ""
    yield "data", f"{data['source']}: {data['n_images']:,}{of} images{sources}, order {data['order']}"
    yield "images and labels", f"sha256 {data['sha256']}"
    if data.get("transform"):
        yield "transform", str(data["transform"])


def _run(report: Report) -> Iterator[tuple[str, str]]:
    names = ("date", "seed", "confidence", "device", "dtype", "mode", "threads", "block", "groups", "looks")
    for name in names:
        value = report.settings.get(name)
        if value is not None:
            yield name, _plain(value)


def _versions(report: Report) -> Iterator[tuple[str, str]]:
    names = ("cnnaudit", "python", "torch")
    found = [f"{name} {report.settings[name]}" for name in names if report.settings.get(name)]
    if found:
        yield "versions", ", ".join(found)
    if report.settings.get("metrics"):
        yield "metrics", ", ".join(report.settings["metrics"])


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value)
    return number(value) if isinstance(value, float) else str(value)
