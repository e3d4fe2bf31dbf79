"""Two engines in one process: PySpark's functions are of one kind at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def classic() -> Iterator[None]:
    """Inside, PySpark's functions are those of a session in a JVM, not of Spark Connect."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SPARK_CONNECT_MODE_ENABLED", raising=False)
        yield
