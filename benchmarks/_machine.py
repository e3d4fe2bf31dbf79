"""The machine a figure was measured on; memory and processor time of a process and its children."""

from __future__ import annotations

import os
import platform
import threading
from datetime import date
from pathlib import Path


def described() -> str:
    """Date, processor, cores and Python, for the head of a report."""
    return (
        f"{date.today():%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, "  # noqa: DTZ011
        f"Python {platform.python_version()}"
    )


class Peak:
    """The largest resident memory of a process and its children, sampled inside the block.

    `cpu` is their processor time in seconds: those that ended count as last seen, for a process
    that is not waited for by its parent is in nobody's account.
    """

    def __init__(self, pid: int) -> None:
        self.gib = 0.0
        self._pid, self._done = pid, threading.Event()
        self._ticks: dict[int, int] = {}

    @property
    def cpu(self) -> float:
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Peak:
        self._done.clear()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.1):
            pids = family(self._pid)
            pages = sum(_resident(pid) for pid in pids)
            self.gib = max(self.gib, pages * os.sysconf("SC_PAGE_SIZE") / 2**30)
            self._ticks |= {pid: ticks for pid in pids if (ticks := _ticks(pid))}


def family(pid: int) -> list[int]:
    """The process and its children's children, as they are now."""
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        found.append(current)
        try:
            text = Path(f"/proc/{current}/task/{current}/children").read_text()
        except OSError:
            continue
        waiting += [int(child) for child in text.split()]
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0


def _ticks(pid: int) -> int:
    """Processor time of a process alone, in clock ticks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
