"""The scenario lab: a month as published, changed as the world changes it: what is noticed?"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks_steps.errors import SourceError
from databricks_steps.months import shift
from databricks_steps.trips import demo
from databricks_steps.trips.column_mapping import matched
from databricks_steps.trips.files import inspected, month_in

if TYPE_CHECKING:
    import pyarrow as pa

FARE_RISE = 1.35  # the rise of December 2022 was 5.02 to 6.64 dollars a mile
CBD_FEE = 0.75  # dollars
AIRPORTS = (1, 132, 138)  # Newark, JFK, LaGuardia
FLAT_FARE = 90.0  # dollars
WRONG_FARE, NEW_VENDOR = 2.90, 6  # as vendor 6 published from 2025-02 on, of every 20th trip here
SLOWER = 1.25  # times as long as before, as in a December
OUTAGE = 0.4  # share of the trips whose meter tells no distance


@dataclass(frozen=True)
class Scenario:
    """One change of a month.

    `fires`: `asset.check` of every check that fails beyond those of the month as it was; a month
    whose file is refused fires none, for nothing of it comes in: `refused` is what is told then.
    """

    name: str
    story: str
    change: Callable[[pa.Table], pa.Table]
    kind: str
    fires: tuple[str, ...] = ()
    refused: str = ""


def landed(scenario: Scenario, landing: Path, month: str, source: Path | None = None) -> Path:
    """The month, changed, as a file in the landing folder, written whole or not at all.

    `source` is a parquet file of the month as published; without it the demo generator makes one.

    Raises:
        SourceError: the source cannot be read, or is of another month or format.
    """
    import pyarrow.parquet as pq

    if source is None:
        name, trips = f"{demo.PREFIX}tripdata_{month}.parquet", demo.demo_trips(month)
    else:
        name, trips = source.name, _read(source, month)
    landing.mkdir(parents=True, exist_ok=True)
    path = landing / name
    part = path.with_name(f".{name}.{os.getpid()}")
    try:
        pq.write_table(scenario.change(trips), part, compression="zstd")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _read(source: Path, month: str) -> pa.Table:
    import pyarrow.parquet as pq

    found = inspected(source)
    if found.problem or found.format != "parquet" or month_in(source.name) != month:
        raise SourceError(
            f"A scenario needs the month {month} as a parquet file with the month in its name",
            f"{source.name}: {found.problem or found.format}",
            f"Name a file such as green_tripdata_{month}.parquet",
        )
    return pq.read_table(source)


def _unchanged(trips: pa.Table) -> pa.Table:
    return trips


def _fare_rise(trips: pa.Table) -> pa.Table:
    fares = _values(trips, "fare_amount") * FARE_RISE
    return _with_fares(trips, fares.round(2))


def _congestion_fee(trips: pa.Table) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    return trips.append_column("cbd_congestion_fee", pa.array(np.full(len(trips), CBD_FEE)))


def _snowstorm(trips: pa.Table) -> pa.Table:
    """Every other trip, all through the month: nobody is out."""
    import numpy as np

    return trips.take(np.arange(0, len(trips), 2))


def _airport_flat_fare(trips: pa.Table) -> pa.Table:
    import numpy as np

    ends = [_values(trips, f"{end}_location_id") for end in ("pickup", "dropoff")]
    airport = np.isin(ends[0], AIRPORTS) | np.isin(ends[1], AIRPORTS)
    fares = _values(trips, "fare_amount")
    return _with_fares(trips, np.where(airport & (fares > 0), FLAT_FARE, fares))


def _wrong_fare(trips: pa.Table) -> pa.Table:
    """A vendor that is new publishes its least fare, whatever the total."""
    import numpy as np

    own = np.arange(len(trips)) % 20 == 0
    vendors = np.where(own, NEW_VENDOR, _values(trips, "vendor_id"))
    fares = np.where(own, WRONG_FARE, _values(trips, "fare_amount"))
    return _with(_with(trips, "fare_amount", fares), "vendor_id", vendors)


def _slow_december(trips: pa.Table) -> pa.Table:
    """Trips take longer, and the meter counts the minutes as it did."""
    import numpy as np

    begun, over = (_values(trips, f"{name}_datetime") for name in ("pickup", "dropoff"))
    minutes = (over - begun) / np.timedelta64(1, "m")
    miles, fares = _values(trips, "trip_distance"), _values(trips, "fare_amount")
    usual = (fares > 0) & (miles > 0) & (miles < 20) & (minutes > 0) & (minutes < 90)
    usual &= np.asarray(_values(trips, "rate_code_id") == 1)
    terms = np.column_stack([np.ones(len(fares)), miles, minutes])
    a_minute = np.linalg.lstsq(terms[usual], fares[usual], rcond=None)[0][2]
    more = np.where(usual, minutes * (SLOWER - 1), 0.0)
    later = over + (more * 60e6).astype("timedelta64[us]")
    return _with_fares(_with(trips, "dropoff_datetime", later), (fares + a_minute * more).round(2))


def _meter_outage(trips: pa.Table) -> pa.Table:
    import numpy as np

    miles = _values(trips, "trip_distance")
    out = np.arange(len(trips)) % 10 < OUTAGE * 10
    return _with(trips, "trip_distance", np.where(out, 0.0, miles))


def _schema_break(trips: pa.Table) -> pa.Table:
    """The publisher gives the fare another name."""
    place = _place(trips, "fare_amount")
    return trips.rename_columns(
        ["metered_charge" if n == place else name for n, name in enumerate(trips.column_names)]
    )


def _place(trips: pa.Table, column: str) -> int:
    return matched(trips.column_names)[column][0]


def _values(trips: pa.Table, column: str) -> Any:
    return trips.column(_place(trips, column)).to_numpy()


def _with(trips: pa.Table, column: str, values: Any) -> pa.Table:
    import pyarrow as pa

    place = _place(trips, column)
    field = trips.schema.field(place)
    return trips.set_column(place, field, pa.array(values, field.type, from_pandas=True))


def _with_fares(trips: pa.Table, fares: Any) -> pa.Table:
    """The trips with other fares, and totals that have them as a part."""
    totals = _values(trips, "total_amount") + fares - _values(trips, "fare_amount")
    return _with(_with(trips, "fare_amount", fares), "total_amount", totals)


_BOTH = ("drift_report.triage", "dropoff_features.drift", "pickup_features.drift")
SCENARIOS: dict[str, Scenario] = {
    each.name: each
    for each in (
        Scenario("calm", "The month as it was", _unchanged, "none"),
        Scenario(
            "fare-rise",
            "All fares rise by 35 percent",
            _fare_rise,
            "concept drift",
            (
                *("drift_report.tariff", *_BOTH),
                *("live_performance.fare_range", "live_performance.live_error"),
            ),
        ),
        Scenario(
            "congestion-fee-column",
            "The publisher adds cbd_congestion_fee, 0.75 dollars a trip",
            _congestion_fee,
            "upstream schema change",
            ("raw_trips.source_schema",),
        ),
        Scenario(
            "snowstorm",
            "Half the demand, all month",
            _snowstorm,
            "covariate drift",
            (*_BOTH, "trips.volume"),
        ),
        Scenario(
            "airport-flat-fare",
            "Every trip from or to an airport costs 90 dollars",
            _airport_flat_fare,
            "concept drift",
            (*_BOTH, "live_performance.live_error"),
        ),
        Scenario(
            "meter-outage",
            "Four of ten meters tell no distance",
            _meter_outage,
            "data problem",
            (*_BOTH, "trips.quarantine_rate"),
        ),
        Scenario(
            "vendor-wrong-fare",
            "A new vendor publishes a fare of 2.90 for each of its trips, one in twenty",
            _wrong_fare,
            "data problem",
            ("drift_report.triage",),
        ),
        Scenario(
            "slow-december",
            "Trips take a quarter longer, by the same tariff",
            _slow_december,
            "none",
        ),
        Scenario(
            "schema-break",
            "fare_amount comes under a name nobody knows",
            _schema_break,
            "none",
            refused="it has no column for fare_amount",
        ),
    )
}


def named(name: str) -> Scenario:
    """The scenario of that name.

    Raises:
        SourceError: there is none.
    """
    if name not in SCENARIOS:
        raise SourceError(
            "A scenario must be one of the lab's", repr(name), f"Use one of: {', '.join(SCENARIOS)}"
        )
    return SCENARIOS[name]


def next_month(held: Sequence[str]) -> str:
    """The month after the newest that is held, or the demo's first."""
    return shift(max(held), 1) if held else demo.MONTHS[0]
