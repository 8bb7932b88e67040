"""JSON Schema of rule files, for editors and linters that know nothing of this package.

Draft-07, which every editor reads: pydantic's schema of the file's shape, with what pydantic cannot know
added: the metrics, the parameters of each, and which keys go together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from cnnaudit.spec.extending import packs
from cnnaudit.spec.model import (
    Between,
    By,
    File,
    LoadData,
    LoadModel,
    LoadWeights,
    MaxRegression,
    Normalise,
    RuleEntry,
    Sampling,
    Step,
    Twin,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cnnaudit.spec.vocabulary import MetricEntry, Vocabulary

__all__ = ["json_schema"]

_OWN = (
    File,
    RuleEntry,
    Between,
    Twin,
    MaxRegression,
    Sampling,
    By,
    LoadModel,
    LoadWeights,
    LoadData,
    Step,
    Normalise,
)
_REF = "#/definitions/"
_BOUNDED: dict[str, Any] = {
    "anyOf": [
        *({"required": [side]} for side in ("min", "max", "min_excess", "max_regression")),
        {"properties": {"severity": {"const": "note"}}, "required": ["severity"]},
    ]
}
_VERBATIM = {"const", "default", "enum", "examples"}  # these hold values, not schemas


def json_schema(vocabulary: Vocabulary) -> dict[str, Any]:
    """The JSON Schema (draft-07) of rule files whose rules may name the metrics of a vocabulary."""
    entries = list(vocabulary.metrics.values())
    models: dict[type[BaseModel], None] = dict.fromkeys([*_OWN, *(entry.params for entry in entries)])
    # All in one call, so that pydantic keeps definitions of the same name apart.
    references, generated = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REF + "{model}"
    )
    names = {model: references[model, "validation"]["$ref"].removeprefix(_REF) for model in models}
    for model in _OWN:
        properties = generated["$defs"][names[model]]["properties"]
        for key, schema in properties.items():
            properties[key] = {**_without_null(schema), "title": key}
    definitions = _draft07(generated["$defs"])
    definitions[names[MaxRegression]] |= {"minProperties": 1}
    definitions[names[Step]] |= {"minProperties": 1, "maxProperties": 1}
    rule = definitions[names[RuleEntry]]
    rule["title"] = "rule"
    rule["properties"]["metric"] |= {
        "enum": list(vocabulary.spellings),
        "enumDescriptions": [entry.summary for entry in entries for _ in entry.spellings],  # read by editors
    }
    # A rule that changes one which is taken over has the id of that and may leave out the rest.
    rule["required"].remove("metric")
    rule["dependencies"] = {"min_excess": ["null"]}
    rule["allOf"] = [
        {"anyOf": [{"required": ["id"]}, {"required": ["metric"]}]},
        {"not": {"properties": {"reduce": {"const": "mean"}}, "required": ["reduce", "share"]}},
        *(_consequences(entry, _REF + names[entry.params]) for entry in entries),
        _population_only(entries),
        _one_site(entries),
    ]
    file = definitions.pop(names[File])
    file["required"].remove("rules")
    name = {"anyOf": [{"enum": list(packs())}, {"type": "string", "pattern": r"\.ya?ml$"}]}
    file["properties"]["extends"]["anyOf"] = [name, {"type": "array", "items": name}]
    whole = {"items": {"required": ["metric"], **_BOUNDED}}
    file |= {
        "if": {"required": ["extends"]},
        "else": {"required": ["rules"], "properties": {"rules": {"minItems": 1, **whole}, "without": {"maxItems": 0}}},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **file,
        "title": "cnnaudit rule file",
        "definitions": definitions,
    }


def _consequences(entry: MetricEntry, params: str) -> dict[str, Any]:
    """What follows for the rest of a rule when it names a metric."""
    then: dict[str, Any] = {"properties": {"params": {"$ref": params}, "op": {"enum": sorted(entry.ops)}}}
    if any(field.is_required() for field in entry.params.model_fields.values()):
        then["required"] = ["params"]
    return _if_metric(list(entry.spellings), then)


def _population_only(entries: list[MetricEntry]) -> dict[str, Any]:
    spellings = [
        spelling
        for entry in entries
        for spelling, field in entry.spellings.items()
        if field not in entry.dataset_fields
    ]
    return _if_metric(spellings, {"properties": {"estimand": {"const": "population"}}})


def _one_site(entries: list[MetricEntry]) -> dict[str, Any]:
    spellings = [spelling for entry in entries if not entry.of_pairs for spelling in entry.spellings]
    return _if_metric(spellings, {"properties": {"at": {"type": ["string", "array"]}}})


def _if_metric(spellings: list[str], then: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"properties": {"metric": {"enum": spellings}}, "required": ["metric"]}, "then": then}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A key of the file may be left out but never be null, which is how pydantic spells "left out"."""
    if schema.get("default", ...) is not None:
        return schema
    members = [member for member in schema["anyOf"] if member != {"type": "null"}]
    kept: dict[str, Any] = members[0] if len(members) == 1 else {"anyOf": members}
    return kept | {key: value for key, value in schema.items() if key not in ("anyOf", "default")}


def _draft07(schema: Any) -> Any:
    """The two spellings of 2020-12 that pydantic uses and draft-07 reads otherwise or not at all."""
    if isinstance(schema, list):
        return [_draft07(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: value if key in _VERBATIM else _draft07(value) for key, value in schema.items()}
    if isinstance(result.get("prefixItems"), list):
        result |= {"items": result.pop("prefixItems"), "additionalItems": False}
    if "$ref" in result and len(result) > 1:  # draft-07 ignores whatever stands beside $ref
        result["allOf"] = [{"$ref": result.pop("$ref")}]
    return result
