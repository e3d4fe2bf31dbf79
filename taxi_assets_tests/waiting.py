"""Waiting in tests, with an end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

PATIENCE = 5  # times as slow as usual may a machine be that is throttled or shared
Found = TypeVar("Found")
Output = TypeVar("Output", str, bytes)


def until(holds: Callable[[], Found], seconds: float = 60) -> Found:
    """What `holds` answers once it is true; fails after that many seconds of a usual machine."""
    deadline = time.monotonic() + seconds * PATIENCE
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds:g} seconds"
        time.sleep(0.05)
    return found


class Process(subprocess.Popen[Output]):
    """A process that is killed where the body of its `with` fails: `Popen` waits for its end."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, value, traceback)
