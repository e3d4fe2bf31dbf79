"""The dirt of real months, put into demo trips in about the shares that were measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

NULL_BLOCK, VOIDS, UNPAIRED = 0.10, 0.003, 0.0002
ZERO_DISTANCE, ZERO_FARE, TINY_DURATION = 0.05, 0.002, 0.005
LONG_DURATION, NEGATIVE_DURATION, ABSURD_DISTANCE, ABSURD_FARE = 0.004, 0.0004, 0.001, 0.0002
OUTSIDE_MONTH, UNKNOWN_CODE, UNKNOWN_ZONE = 0.0002, 0.0005, 0.004
_DAY = 86_400


def with_dirt(trips: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The trips with every kind of dirt, the rows of voids added, in no order."""
    import numpy as np

    rows = len(trips["pickup"])
    dirty = {name: values.copy() for name, values in trips.items()}

    def some(share: float) -> Any:
        return rng.choice(rows, round(rows * share), replace=False)

    _measures(dirty, some, rng)
    _codes(dirty, some, rng)
    stray = some(OUTSIDE_MONTH)
    years = rng.choice(np.array([-13 * 365, -31, 31, 365]), len(stray))
    dirty["pickup"][stray] += (years * _DAY).astype("timedelta64[s]")
    # Rows sent without the block of codes are longer and dearer rides: not at random.
    dear = np.log(np.maximum(dirty["fare"], 1.0))
    weight = np.exp(0.9 * dear)
    dirty["block"] = rng.random(rows) * weight.sum() < NULL_BLOCK * weight * rows
    dirty["sign"] = np.ones(rows)
    dirty["sign"][some(UNPAIRED)] = -1.0
    return _with_voids(dirty, some(VOIDS), rng)


def _measures(dirty: dict[str, Any], some: Any, rng: np.random.Generator) -> None:
    """Distances, fares and durations that cannot be."""
    dirty["distance"][some(ZERO_DISTANCE)] = 0.0
    dirty["fare"][some(ZERO_FARE)] = 0.0
    short, long, back = some(TINY_DURATION), some(LONG_DURATION), some(NEGATIVE_DURATION)
    dirty["seconds"][short] = rng.integers(0, 30, len(short))
    dirty["seconds"][long] = rng.integers(_DAY - 3600, _DAY, len(long))
    dirty["seconds"][back] = -rng.integers(1, 365 * _DAY, len(back))
    far, dear = some(ABSURD_DISTANCE), some(ABSURD_FARE)
    dirty["distance"][far] = rng.uniform(5_000, 260_000, len(far)).round(2)
    dirty["fare"][dear] = rng.uniform(300, 1_600, len(dear)).round(2)


def _codes(dirty: dict[str, Any], some: Any, rng: np.random.Generator) -> None:
    """Codes outside the publisher's dictionary; the trips are real."""
    import numpy as np

    rows = len(dirty["pickup"])
    dirty["vendor"] = np.where(rng.random(rows) < 0.15, 1, 2)
    dirty["passengers"] = rng.choice(
        [1, 2, 3, 5, 6, 4], rows, p=[0.864, 0.081, 0.013, 0.022, 0.016, 0.004]
    )
    dirty["held"] = rng.random(rows) < 0.01
    dirty["vendor"][some(UNKNOWN_CODE)] = 6
    dirty["rate"][some(UNKNOWN_CODE)] = 99
    dirty["payment"][some(UNKNOWN_CODE)] = 0
    dirty["passengers"][some(UNKNOWN_CODE * 8)] = 0
    zones = some(UNKNOWN_ZONE)
    dirty["destination"][zones] = rng.choice([264, 265], len(zones))


def _with_voids(dirty: dict[str, Any], voided: Any, rng: np.random.Generator) -> dict[str, Any]:
    """A second row for some trips: the same trip with every amount negative."""
    import numpy as np

    payment = rng.choice([3, 4], len(voided), p=[0.75, 0.25])
    added = {name: np.concatenate([values, values[voided]]) for name, values in dirty.items()}
    rows = len(dirty["pickup"])
    added["sign"][rows:] *= -1.0
    added["payment"][rows:] = payment
    added["block"][rows:] = False
    added["block"][voided] = False
    order = rng.permutation(rows + len(voided))
    return {name: values[order] for name, values in added.items()}


def published(dirty: dict[str, Any]) -> Iterator[tuple[str, pa.DataType, Any]]:
    """Name, type and values of each column, as TLC writes a green month."""
    import numpy as np
    import pyarrow as pa

    def unless_block(values: Any) -> Any:
        return np.where(dirty["block"], np.nan, values)

    sign, dropoff = dirty["sign"], dirty["pickup"] + dirty["seconds"].astype("timedelta64[s]")
    amounts = {
        "fare_amount": dirty["fare"],
        "extra": dirty["extra"],
        "mta_tax": dirty["tax"],
        "tip_amount": dirty["tip"],
        "tolls_amount": dirty["tolls"],
        "improvement_surcharge": np.full(len(sign), 0.3),
    }
    congestion = np.where(dirty["block"], 0.0, dirty["congestion"])
    total = (sum(amounts.values()) + congestion) * sign
    micros, whole, real = pa.timestamp("us"), pa.int64(), pa.float64()
    yield "VendorID", whole, dirty["vendor"]
    yield "lpep_pickup_datetime", micros, dirty["pickup"].astype("datetime64[us]")
    yield "lpep_dropoff_datetime", micros, dropoff.astype("datetime64[us]")
    flag = np.where(dirty["held"], "Y", "N").astype(object)
    flag[dirty["block"]] = None
    yield "store_and_fwd_flag", pa.string(), flag
    yield "RatecodeID", real, unless_block(dirty["rate"])
    yield "PULocationID", whole, dirty["origin"]
    yield "DOLocationID", whole, dirty["destination"]
    yield "passenger_count", real, unless_block(dirty["passengers"])
    yield "trip_distance", real, dirty["distance"]
    for name, values in amounts.items():
        yield name, real, (values * sign).round(2) + 0.0
    yield "ehail_fee", pa.null(), np.full(len(sign), None)
    yield "total_amount", real, total.round(2)
    yield "payment_type", real, unless_block(dirty["payment"])
    yield "trip_type", real, unless_block(np.where(dirty["dispatched"], 2, 1))
    yield "congestion_surcharge", real, unless_block(dirty["congestion"] * sign)
