"""What a step took: seconds, and the most memory that its engine held meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

GIB = 2**30
PROCESSES: list[int] = []  # of this machine that compute for this one, beside a JVM
_RESET_PEAK = "5"  # what Linux's clear_refs takes to begin a new peak


class Cost:
    """Counts from when it is made; an engine may be there by then or start later."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        for pool in _heap_pools():
            pool.resetPeakUsage()
        for process in PROCESSES:
            with suppress(OSError):  # it has ended, or this system keeps no peaks
                Path(f"/proc/{process}/clear_refs").write_text(_RESET_PEAK)

    def figures(self) -> dict[str, float]:
        """`seconds`, and `spark_peak_gib`: heap of the driver's JVM, or Sail's resident memory."""
        found = {"seconds": round(time.monotonic() - self._started, 2)}
        peak = sum(pool.getPeakUsage().getUsed() for pool in _heap_pools())
        peak += sum(map(_resident_peak, PROCESSES))
        return found | ({"spark_peak_gib": round(peak / GIB, 3)} if peak else {})


def _resident_peak(process: int) -> int:
    """Bytes; 0 where the system does not tell."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _heap_pools() -> Iterable[Any]:
    """Java's own beans of the heap's parts; none without Spark, or with Spark elsewhere."""
    sql = sys.modules.get("pyspark.sql")  # not imported for the question
    session = sql.SparkSession.getActiveSession() if sql else None
    jvm = getattr(session, "_jvm", None)  # a session of Spark Connect has none
    if jvm is None:
        return
    heap = "Heap memory"
    for pool in jvm.java.lang.management.ManagementFactory.getMemoryPoolMXBeans():
        if pool.getType().toString() == heap:
            yield pool
