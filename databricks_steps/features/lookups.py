"""Which features a trip looks up, by which key and as of which time; nothing is computed here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from databricks_steps import schemas


@dataclass(frozen=True)
class Lookup:
    """One point-in-time lookup, the counterpart of Databricks' `FeatureLookup`.

    `table` is the feature table, `key` the column of the trip that holds its `location_id`,
    `age` the column that says how old the answer is (seconds; null when the default answered).
    Rows count that were known `delay` before the pickup.
    """

    table: schemas.Table
    key: str
    age: str
    at: str = "pickup_datetime"
    delay: timedelta = timedelta(0)

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.table.features)

    @property
    def defaults(self) -> dict[str, float]:
        """Feature → the value for an unknown location, no fresh row, or a null in the row."""
        return {c.name: c.default for c in self.table.features if c.default is not None}


LOOKUPS = (
    Lookup(schemas.PICKUP_FEATURES, "pickup_location_id", "pickup_feature_age"),
    Lookup(schemas.DROPOFF_FEATURES, "dropoff_location_id", "dropoff_feature_age"),
)


def delayed(delay: timedelta) -> tuple[Lookup, ...]:
    """Every lookup, of rows that were known so long before the pickup."""
    return tuple(replace(lookup, delay=delay) for lookup in LOOKUPS)


def of(table: schemas.Table) -> Lookup:
    """The lookup that reads a feature table."""
    return next(lookup for lookup in LOOKUPS if lookup.table is table)
