"""From a value of any type that publishers use to a value of ours, or null.

Nothing here raises on a bad value: Spark's ANSI mode would stop a month for one row. Each
expression names its source as few times as it can, for Spark repeats what it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from databricks_steps import schemas

if TYPE_CHECKING:
    from pyspark.sql import Column

_MISSING = ("", "null", "none", "nan", "nat", "n/a", "\\n")
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_WHOLE = r"^[+-]?\d+(\.0*)?$"
_TIME = r"^\d{4}-\d{1,2}-\d{1,2}[ T]\d{1,2}:\d{2}(:\d{2}(\.\d{1,9})?)?( ?UTC|Z)?$"
# Month first, as American spreadsheets write it, with and without AM and PM.
_AMERICAN = {
    r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}:\d{2} [AaPp][Mm]$": "M/d/yyyy h:mm:ss a",
    r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}:\d{2}$": "M/d/yyyy H:mm:ss",
    r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}$": "M/d/yyyy H:mm",
}
_WHOLE_TYPES = ("tinyint", "smallint", "int", "bigint")
_TIMES = ("timestamp", "timestamp_ntz", "date")


def present(source: Column, source_type: str) -> Column:
    """The value, or null for what publishers write when there is none (empty text, NaN)."""
    from pyspark.sql import functions as F  # noqa: N812

    if source_type == "string":
        text = F.trim(source)
        return F.when(~F.lower(text).isin(*_MISSING), text)
    if source_type in ("double", "float"):
        return F.nanvl(source, F.lit(None).cast(source_type))
    return source


def typed(source: Column, source_type: str, kind: schemas.Type, zone: str = "") -> Column:
    """A present value as `kind`; null when it cannot be read so."""
    if kind == "string":
        return source.cast("string")
    if kind == "timestamp":
        return _timestamp(source, source_type, zone)
    if kind == "double":
        return _number(source, source_type)
    return _whole(source, source_type)


def _number(source: Column, source_type: str) -> Column:
    """A finite double. A 32-bit 1.2 goes by its text: 1.2, not 1.2000000476837158."""
    from pyspark.sql import functions as F  # noqa: N812

    if source_type in _WHOLE_TYPES or source_type.startswith("decimal"):
        return source.cast("double")
    if source_type not in ("string", "double", "float"):
        return F.lit(None).cast("double")
    number = source.cast("string").cast("double") if source_type == "float" else source
    if source_type == "string":
        number = F.when(source.rlike(_NUMBER), source).try_cast("double")
    return F.nullif(F.nullif(number, F.lit(float("inf"))), F.lit(float("-inf")))


def _whole(source: Column, source_type: str) -> Column:
    from pyspark.sql import functions as F  # noqa: N812

    if source_type in _WHOLE_TYPES:
        return source.try_cast("int")
    if source_type == "string":
        return F.when(source.rlike(_WHOLE), source).try_cast("double").try_cast("int")
    number = _number(source, source_type)
    return F.when(number == F.rint(number), number).try_cast("int")


def _timestamp(source: Column, source_type: str, zone: str) -> Column:
    """Wall clock as published, of the years 1 to 9999."""
    from pyspark.sql import functions as F  # noqa: N812

    if source_type == "string":
        return _text_time(source)
    if source_type == "nanos":
        found = F.timestamp_micros(F.call_function("div", source, F.lit(1000)))
    elif source_type in _TIMES:
        found = source.cast("timestamp")
    else:
        return F.lit(None).cast("timestamp")
    if zone not in ("", "UTC"):
        found = F.from_utc_timestamp(found, zone)
    first, last = (F.lit(text).cast("timestamp") for text in ("0001-01-01", "9999-12-31"))
    return F.when(found.between(first, last), found)


def _text_time(text: Column) -> Column:
    """A zone at the end would shift the time: only UTC is let through, and taken off."""
    from pyspark.sql import functions as F  # noqa: N812

    plain = F.regexp_replace(text, r"( ?UTC|Z)$", "")
    found = F.when(text.rlike(_TIME), plain.try_cast("timestamp"))
    for pattern, layout in _AMERICAN.items():
        found = found.when(text.rlike(pattern), F.try_to_timestamp(text, F.lit(layout)))
    return found
