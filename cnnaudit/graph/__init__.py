"""From a model to the sites where its information flow can be measured."""

from cnnaudit.graph.capture import capture, evaluating
from cnnaudit.graph.model import ModelGraph
from cnnaudit.graph.sites import find_sites

__all__ = ["ModelGraph", "capture", "evaluating", "find_sites"]
