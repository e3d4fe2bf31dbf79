"""Digests of what a result was made from, so that a step can tell that nothing changed."""

from __future__ import annotations

import hashlib
import inspect
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any


def digest(*parts: object) -> int:
    """A stable whole number, below 2^63, of the parts' texts."""
    hashed = hashlib.sha256("\x1f".join(map(str, parts)).encode())
    return int.from_bytes(hashed.digest()[:8], "big") >> 1


@cache
def package() -> str:
    """Digest of the sources of all steps."""
    root = Path(__file__).parent
    return str(digest(*(path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py")))))


@cache
def code(*modules: ModuleType | str) -> str:
    """Digest of the modules' sources: changed code gives changed results.

    A module that is given by its name is not imported for it.
    """
    return str(digest(*(_source(module) for module in modules)))


def _source(module: ModuleType | str) -> str:
    if isinstance(module, ModuleType):
        return inspect.getsource(module)
    spec = find_spec(module)
    loader: Any = spec and spec.loader
    source: str = loader.get_source(module)
    return source
