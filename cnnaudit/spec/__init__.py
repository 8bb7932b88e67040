"""Rule files: YAML text -> a frozen `Spec` with line numbers. Never imports what a spec names."""

from cnnaudit.spec import glob
from cnnaudit.spec.extending import Base, packs
from cnnaudit.spec.model import (
    Estimand,
    IfAbsent,
    Normalise,
    Reading,
    Reduce,
    Regression,
    Rule,
    Sampling,
    Severity,
    Slices,
    Spec,
    Step,
    Undecided,
)
from cnnaudit.spec.reader import from_mapping, load, loads
from cnnaudit.spec.schema import json_schema
from cnnaudit.spec.source import Kind, Role, Source, resolve
from cnnaudit.spec.vocabulary import MetricEntry, Vocabulary

__all__ = [
    "Base",
    "Estimand",
    "IfAbsent",
    "Kind",
    "MetricEntry",
    "Normalise",
    "Reading",
    "Reduce",
    "Regression",
    "Role",
    "Rule",
    "Sampling",
    "Severity",
    "Slices",
    "Source",
    "Spec",
    "Step",
    "Undecided",
    "Vocabulary",
    "from_mapping",
    "glob",
    "json_schema",
    "load",
    "loads",
    "packs",
    "resolve",
]
