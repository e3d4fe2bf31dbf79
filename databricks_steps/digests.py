"""Digests of what a result was made from, so that a step can tell that nothing changed."""

from __future__ import annotations

import hashlib
import inspect
from types import ModuleType


def digest(*parts: object) -> int:
    """A stable whole number, below 2^63, of the parts' texts."""
    hashed = hashlib.sha256("\x1f".join(map(str, parts)).encode())
    return int.from_bytes(hashed.digest()[:8], "big") >> 1


def code(*modules: ModuleType) -> str:
    """Digest of the modules' sources: changed code gives changed results."""
    return str(digest(*(inspect.getsource(module) for module in modules)))
