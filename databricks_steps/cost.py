"""What a step took: seconds, and the most memory that Spark's driver held meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

GIB = 2**30


class Cost:
    """Counts from when it is made; a session of Spark may be there by then or start later."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        for pool in _heap_pools():
            pool.resetPeakUsage()

    def figures(self) -> dict[str, float]:
        """`seconds`, and `spark_peak_gib` (heap of the driver's JVM) where this process has one."""
        found = {"seconds": round(time.monotonic() - self._started, 2)}
        peak = sum(pool.getPeakUsage().getUsed() for pool in _heap_pools())
        return found | ({"spark_peak_gib": round(peak / GIB, 3)} if peak else {})


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
