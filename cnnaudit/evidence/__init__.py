"""What an audit measured, stored in one file, and decided again from it with no model, no data and no user code."""

from cnnaudit.evidence.content import Known, Planned
from cnnaudit.evidence.judging import judge
from cnnaudit.evidence.storing import Seen, states, store, writable

__all__ = ["Known", "Planned", "Seen", "judge", "states", "store", "writable"]
