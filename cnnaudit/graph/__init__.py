"""From a model to the sites where its information flow can be measured."""

from cnnaudit.graph.capture import capture, capture_program, evaluating, fixed_batch
from cnnaudit.graph.model import ModelGraph
from cnnaudit.graph.sites import find_sites

__all__ = ["ModelGraph", "capture", "capture_program", "evaluating", "find_sites", "fixed_batch"]
