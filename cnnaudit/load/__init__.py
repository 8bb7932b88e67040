"""What a spec names -> a live model; the only place that imports user code or opens weights."""

from cnnaudit.load.model import Loaded, load_model, unwrapped
from cnnaudit.load.trust import Trust
from cnnaudit.load.twin import make_twin

__all__ = ["Loaded", "Trust", "load_model", "make_twin", "unwrapped"]
