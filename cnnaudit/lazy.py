"""Heavy libraries for the rooms that are also used where nothing is computed.

Rules, metrics and reports are validated, explained and rendered on machines and in hooks where an import that takes
longer than the work, or torch at all, is unwelcome. They write ``from cnnaudit.lazy import torch``, and what they name
is imported when its first attribute is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from scipy import linalg, optimize, special
    from scipy.sparse import linalg as sparse_linalg
else:

    class _Module:
        def __init__(self, name: str) -> None:
            self.__name__ = name

        def __getattr__(self, name: str) -> Any:
            value = getattr(importlib.import_module(self.__name__), name)
            setattr(self, name, value)  # the next look-up costs nothing
            return value

    linalg = _Module("scipy.linalg")
    np = _Module("numpy")
    optimize = _Module("scipy.optimize")
    sparse_linalg = _Module("scipy.sparse.linalg")
    special = _Module("scipy.special")
    torch = _Module("torch")

__all__ = ["linalg", "np", "optimize", "sparse_linalg", "special", "torch"]
