from __future__ import annotations

from typing import Annotated

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, Field

from cnnaudit.errors import SpecError
from cnnaudit.spec import MetricEntry, Spec, Vocabulary, json_schema, loads


class NoParams(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClassInformationParams(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bins: Annotated[int, Field(ge=2)] = 8


class ProjectionParams(BaseModel):
    """A parameter without default, a union and a pair of fixed length: what the real metrics may bring."""

    model_config = ConfigDict(extra="forbid")

    rank: int
    scale: float | str = "auto"
    span: tuple[int, int] = (0, 1)


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    entries = [
        MetricEntry(
            name="activity",
            fields=("dead", "apoz", "dormant"),
            ops=frozenset({"conv", "linear"}),
            params=NoParams,
            summary="How often a kernel responds.",
            dataset_fields=frozenset({"dead", "apoz"}),
            better={"dead": "lower"},
        ),
        MetricEntry(
            name="pool_entropy_loss",
            fields=("relative", "bits", "density_ratio"),
            ops=frozenset({"pool"}),
            params=NoParams,
            summary="Entropy that pooling removes.",
        ),
        MetricEntry(
            name="branch_variance_share",
            fields=("share",),
            ops=frozenset({"residual"}),
            params=NoParams,
            summary="Variance that the branch brings.",
        ),
        MetricEntry(
            name="class_information",
            fields=("bits",),
            ops=frozenset({"conv"}),
            params=ClassInformationParams,
            summary="Information between a kernel's response and the class.",
        ),
        MetricEntry(
            name="projection",
            fields=("value",),
            ops=frozenset({"conv"}),
            params=ProjectionParams,
            better={"value": "higher"},
            summary="A metric with parameters of every kind.",
        ),
        MetricEntry(
            name="shift",
            fields=("consistency", "accuracy"),
            ops=frozenset({"head"}),
            params=NoParams,
            summary="A metric with a field that says too little alone.",
            beside={"consistency": "accuracy"},
        ),
    ]
    return Vocabulary({entry.name: entry for entry in entries})


@pytest.fixture(scope="session")
def schema(vocabulary):
    return json_schema(vocabulary)


@pytest.fixture(scope="session")
def validator(schema):
    return jsonschema.Draft7Validator(schema)


@pytest.fixture
def read(vocabulary, tmp_path, monkeypatch):
    """Reads YAML as if it were the file x.audit.yaml in an empty current directory."""
    monkeypatch.chdir(tmp_path)

    def read(text: str) -> Spec:
        return loads(text, vocabulary, path="x.audit.yaml")

    return read


@pytest.fixture
def problems(read):
    """The messages about a text, without the file's name."""

    def problems(text: str) -> list[str]:
        with pytest.raises(SpecError) as caught:
            read(text)
        return [str(problem).removeprefix("x.audit.yaml:") for problem in caught.value.problems]

    return problems
