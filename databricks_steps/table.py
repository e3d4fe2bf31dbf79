"""What a table is: columns with type, unit and comment, and keys; `schemas.py` holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

Type = Literal["string", "int", "long", "double", "timestamp", "boolean", "array<string>"]


@dataclass(frozen=True)
class Column:
    """One column. `default` is what a lookup answers when a feature is unknown or too old."""

    name: str
    type: Type
    comment: str
    unit: str = ""
    nullable: bool = True
    default: float | None = None


@dataclass(frozen=True)
class Table:
    """One table: what it is, its columns in order, and its keys.

    `month` names the partition column, a `YYYY-MM` string; `time_key` the column of a
    point-in-time lookup; `computed` the columns that say when a row was computed, which never
    make two rows different.
    """

    name: str
    comment: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    time_key: str | None = None
    month: str | None = None
    computed: tuple[str, ...] = ()
    change_data_feed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns a lookup may answer."""
        return tuple(column for column in self.columns if column.default is not None)

    def spark(self) -> StructType:
        """The schema as Spark's own, every column nullable as Spark's readers make it."""
        from pyspark.sql import types

        kinds = {
            "string": types.StringType(),
            "int": types.IntegerType(),
            "long": types.LongType(),
            "double": types.DoubleType(),
            "timestamp": types.TimestampType(),
            "boolean": types.BooleanType(),
            "array<string>": types.ArrayType(types.StringType()),
        }
        return types.StructType(
            [types.StructField(c.name, kinds[c.type], nullable=True) for c in self.columns]
        )


TRIP_MONTH = Column("trip_month", "string", "Month of the file, YYYY-MM", nullable=False)
