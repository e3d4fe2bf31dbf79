"""What a Spark session may refuse, and how steps do without: kept frames and broadcasts.

Serverless compute speaks Spark Connect: no cache and no SparkContext. It also refuses most settings
of a session: a step sets none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

LOG = logging.getLogger(__name__)


@contextmanager
def kept(frame: DataFrame) -> Iterator[DataFrame]:
    """The frame, kept while it is used, for it is read more than once.

    Where frames are not kept they are computed again, which is slower but gives the same rows:
    steps sample by hash, and a time of computing is never compared.
    """
    from pyspark.errors import PySparkException

    try:
        rows = frame.persist()
    except PySparkException as error:
        LOG.info("Frames are not kept here: %s", error)
        yield frame
        return
    try:
        yield rows
    finally:
        rows.unpersist()


def shared(spark: SparkSession, data: bytes) -> Callable[[], bytes]:
    """Bytes for Python workers: broadcast once where there is a SparkContext, else sent along."""
    from pyspark.errors import PySparkException

    try:
        broadcast = spark.sparkContext.broadcast(data)
    except (PySparkException, AttributeError) as error:
        LOG.info("Nothing is broadcast here: %s", error)
        return lambda: data
    return lambda: broadcast.value
