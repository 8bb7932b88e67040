"""Torch for the rooms that must be readable without it.

Rules, metrics and reports are validated, explained and rendered on machines and in hooks where a
two-second import, or torch at all, is unwelcome. They write ``from cnnaudit.lazy import torch`` and
torch is imported when its first attribute is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch  # noqa: PLC0414 - the redundant alias is how a re-export is spelled
else:

    class _Torch:
        def __getattr__(self, name: str) -> Any:
            value = getattr(importlib.import_module("torch"), name)
            setattr(self, name, value)  # the next look-up costs nothing
            return value

    torch = _Torch()

__all__ = ["torch"]
