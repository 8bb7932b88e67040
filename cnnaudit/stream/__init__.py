"""One pass of the network over the data, and the statistics that it fills."""

from cnnaudit.stream.folding import Folding
from cnnaudit.stream.sweep import filled, sweep

__all__ = ["Folding", "filled", "sweep"]
