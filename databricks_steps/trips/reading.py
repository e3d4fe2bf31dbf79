"""What Spark raises when a file is damaged behind a good header, and what people are told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from databricks_steps.trips import normalize
from databricks_steps.trips.files import TripFile

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_CAUSE = re.compile(r"Caused by: ([\w.$]+)(?:: ([^\n]*))?")


def failures() -> tuple[type[Exception], ...]:
    """What a failed read raises, Spark's own or that of a file that is read here."""
    from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
    from pyarrow import ArrowException
    from pyspark.errors import PySparkException

    return (PySparkException, Py4JJavaError, ArrowException, OSError)


def reason(error: Exception) -> str:
    """The innermost cause, in one line."""
    causes = _CAUSE.findall(f"{error}\n{getattr(error, '_stackTrace', '')}")
    name, text = causes[-1] if causes else ("", "")
    said = text or name.rpartition(".")[2] or next(iter(str(error).splitlines()), "")
    return f"its rows cannot be read: {said[:200]}"


def problem(spark: SparkSession, file: TripFile) -> str:
    """Why reading every row of the file fails, or an empty text."""
    try:
        rows = normalize.file_rows(spark, file)
        rows.write.format("noop").mode("overwrite").save()
    except failures() as error:
        return reason(error)
    return ""
