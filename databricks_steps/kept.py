"""What a Spark session may refuse, and how steps do without: kept frames, a setting of their own.

Serverless compute speaks Spark Connect: no cache, no SparkContext, and few settings to set.
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


@contextmanager
def setting(spark: SparkSession, name: str, value: str) -> Iterator[bool]:
    """A setting of the session for a while; gives whether the session took it."""
    from pyspark.errors import PySparkException

    try:
        before = spark.conf.get(name)
        spark.conf.set(name, value)
    except PySparkException as error:
        LOG.info("%s cannot be set here: %s", name, error)
        yield False
        return
    try:
        yield True
    finally:
        spark.conf.set(name, before or "false")


def shared(spark: SparkSession, data: bytes) -> Callable[[], bytes]:
    """Bytes for Python workers: broadcast once where there is a SparkContext, else sent along."""
    from pyspark.errors import PySparkException

    try:
        broadcast = spark.sparkContext.broadcast(data)
    except (PySparkException, AttributeError) as error:
        LOG.info("Nothing is broadcast here: %s", error)
        return lambda: data
    return lambda: broadcast.value
