"""The tariff audit on meters that are known, and on real months."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from databricks_steps.training import tariff

OLD, NEW = (2.5, 2.5, 0.5, 0.5), (3.0, 3.5, 0.7, 0.7)


def trips(meter: tuple[float, ...], number: int, seed: int = 1) -> tuple[Any, Any, Any]:
    """Miles, minutes and fares of a meter: base, a mile, a minute, its tick."""
    base, per_mile, per_minute, tick = meter
    random = np.random.default_rng(seed)
    miles = random.lognormal(0.7, 0.7, number)
    minutes = miles * random.uniform(3, 9, number)
    ticks = (per_mile * miles + per_minute * minutes) / tick
    return miles, minutes, base + tick * np.round(ticks)


@pytest.mark.parametrize("meter", [OLD, NEW])
def test_a_meter_is_found_though_a_tenth_of_the_fares_is_odd(meter: tuple[float, ...]) -> None:
    miles, minutes, fares = trips(meter, 4_000)
    fares[::11] = 52.13  # flat fares
    found = tariff.fitted(miles, minutes, fares)
    assert found is not None
    assert (found.base, found.per_mile, found.per_minute) == pytest.approx(meter[:3], abs=0.05)
    assert (found.tick, found.trips) == (meter[3], 4_000)
    assert found.tick_share == pytest.approx(10 / 11, abs=0.01)


def test_of_few_trips_nothing_is_told() -> None:
    assert tariff.fitted(*trips(OLD, 99)) is None
    assert tariff.fitted(*trips(OLD, 0)) is None
    assert tariff.fitted(*trips(OLD, 100)) is not None


def test_trips_that_are_all_the_same_have_a_tariff() -> None:
    found = tariff.fitted(*(np.full(200, value) for value in (1.0, 10.0, 9.5)))
    assert found is not None
    assert found.fares(np.array([1.0]), np.array([10.0])) == pytest.approx([9.5])


def test_fares_without_a_tick_say_so() -> None:
    miles, minutes, _ = trips(OLD, 4_000)
    found = tariff.fitted(miles, minutes, miles * 2 + minutes * 0.4)
    assert found is not None
    assert (found.tick, found.tick_share) == (0.0, 0.0)


def test_a_new_tariff_has_its_day() -> None:
    before = tariff.fitted(*trips(OLD, 4_000))
    assert before is not None
    old, new = trips(OLD, 300, seed=2), trips(NEW, 300, seed=3)
    miles, minutes, fares = (np.concatenate(pair) for pair in zip(old, new, strict=True))
    days = [f"2022-12-{day:02}" for day in range(4, 34) for _ in range(20)]
    assert tariff.began(before, days, miles, minutes, fares) == "2022-12-19"
    assert tariff.began(before, days[:300], *old) is None
    assert tariff.began(before, days[:300], *new) == days[0]
    # A day that costs as before ends what was begun; a last day of few trips tells nothing.
    fares[-20:] = trips(OLD, 600, seed=4)[2][-20:] * 0 + before.fares(miles[-20:], minutes[-20:])
    assert tariff.began(before, days, miles, minutes, fares) is None
    few = [*days[:-19], *["2022-12-34"] * 19]
    assert tariff.began(before, few, miles, minutes, fares) == "2022-12-19"


def metered(real_data: Path, month: str) -> tuple[Any, Any, Any]:
    """As validation leaves them, by pyarrow alone."""
    name = f"green_tripdata_{month}.parquet"
    folder = next(real_data.glob(f"tlc/*/{name}")).parent
    table = pq.read_table(folder / name)
    begun, ended = (
        table[f"lpep_{end}_datetime"].cast("timestamp[us]") for end in ("pickup", "dropoff")
    )
    minutes = pc.divide(pc.cast(pc.microseconds_between(begun, ended), "float64"), 60e6).to_numpy()
    miles = table["trip_distance"].to_numpy()
    fares = table["fare_amount"].to_numpy()
    rate = table["RatecodeID"].cast("float64").fill_null(0).to_numpy()
    kept = (rate == 1) & (fares >= 2.5) & (fares <= 250) & (miles >= 0.05) & (miles <= 100)
    kept &= (minutes >= 0.5) & (minutes <= 240) & (miles < minutes / 60 * 80)
    return miles[kept], minutes[kept], fares[kept]


@pytest.mark.parametrize(
    ("month", "base", "per_mile", "per_minute", "tick"),
    [
        ("2021-02", 1.90, 1.968, 0.351, 0.5),
        ("2022-03", 2.01, 1.873, 0.357, 0.5),
        ("2023-12", 2.23, 2.563, 0.512, 0.7),
        ("2025-03", 2.24, 2.599, 0.505, 0.7),
    ],
)
def test_real_months_have_their_tariff(
    real_data: Path, month: str, base: float, per_mile: float, per_minute: float, tick: float
) -> None:
    found = tariff.fitted(*metered(real_data, month))
    assert found is not None
    assert (found.base, found.per_mile, found.per_minute) == pytest.approx(
        (base, per_mile, per_minute), rel=0.03
    )
    assert found.tick == tick
    assert found.tick_share > 0.995


def test_of_real_months_one_change_is_found(real_data: Path) -> None:
    months = (
        "2021-02",
        "2022-01",
        "2022-03",
        "2023-01",
        "2023-02",
        "2023-12",
        "2024-01",
        "2025-03",
    )
    arrays = [metered(real_data, month) for month in months]
    tariffs = [tariff.fitted(*each) for each in arrays]
    levels = [
        before.level(*each)
        for before, each in zip(tariffs, arrays[1:], strict=False)
        if before is not None
    ]
    changed = [abs(level) > tariff.LEVEL for level in levels]
    assert changed == [False, False, True, False, False, False, False]
    assert levels[2] == pytest.approx(1 / 3, abs=0.01)


def frame(meter: tuple[float, ...], number: int, month: str, **columns: Any) -> pd.DataFrame:
    """Metered trips of a month as the audit reads them, on 30 days, at noon."""
    miles, minutes, fares = trips(meter, number, seed=int(month[5:]))
    days = [f"{month}-{n % 30 + 1:02}" for n in range(number)]
    made = {"day": days, "hour": 12, "miles": miles, "minutes": minutes, "fare": fares}
    return pd.DataFrame({**made, **columns})


def test_a_change_within_the_month_is_found_with_its_day() -> None:
    """As in December 2022: the median trip of the month still costs as before."""
    before, here = frame(OLD, 6_000, "2022-11"), frame(OLD, 6_000, "2022-12")
    later = here["day"] >= "2022-12-19"
    new = NEW[0] + NEW[1] * here["miles"] + NEW[2] * here["minutes"]
    here["fare"] = here["fare"].where(~later, new)
    found = tariff.audited("2022-12", "2022-11", here, before)
    assert (found.changed, found.since) == (True, "2022-12-19")
    assert found.level == pytest.approx(0.4, abs=0.05)
    assert tariff.verdict([found]).severity == "error"
    last = here.assign(fare=before["fare"])
    same = tariff.audited("2022-11", "2022-11", before, before)
    assert (same.changed, same.since, same.level) == (False, "", pytest.approx(0, abs=0.01))
    two = before.assign(fare=before["fare"].where(before["day"] < "2022-11-29", 2 * last["fare"]))
    assert not tariff.audited("2022-11", "2022-11", two, before).changed  # two days are none


def test_what_a_model_may_learn_from_begins_with_the_newest_tariff() -> None:
    """As of the months around December 2022, which hold two tariffs for three windows of three."""
    old = [frame(OLD, 6_000, month) for month in ("2022-10", "2022-11", "2022-12")]
    new = [frame(NEW, 6_000, month) for month in ("2022-12", "2023-01", "2023-02")]
    december = old[2].where(old[2]["day"] < "2022-12-19", new[0])
    months = dict(
        zip(
            ("2022-10", "2022-11", "2022-12", "2023-01", "2023-02"),
            (*old[:2], december, *new[1:]),
            strict=True,
        )
    )

    def since(first: str, last: str) -> str:
        return tariff.newest_change({m: t for m, t in months.items() if first <= m <= last})

    assert since("2022-10", "2022-11") == since("2022-10", "2022-10") == ""
    assert since("2022-10", "2022-12") == since("2022-11", "2023-01") == "2022-12-19"
    assert since("2022-12", "2023-02") == "2023-01-01"  # a month of two is like neither
    assert since("2023-01", "2023-02") == ""
    assert tariff.newest_change({}) == ""
    few = {**months, "2022-11": months["2022-11"].head(20), "2022-12": december.head(0)}
    assert tariff.newest_change(few) == "2023-01-01"


def test_slower_traffic_is_no_other_tariff_and_explains_the_error() -> None:
    before, here = frame(OLD, 6_000, "2022-11"), frame(OLD, 6_000, "2022-12")
    predicted = OLD[0] + (OLD[1] + 6 * OLD[2]) * here["miles"]  # six minutes a mile, as before
    here["fare"] += OLD[2] * 0.3 * here["minutes"]
    here["minutes"] *= 1.3
    found = tariff.audited("2022-12", "2022-11", here.assign(predicted=predicted), before)
    assert not found.changed
    assert not found.meters_otherwise
    assert found.slower == pytest.approx(0.3, abs=0.03)
    assert found.error is not None
    assert found.in_traffic is not None
    assert found.in_traffic < 0.8 * found.error
    few = tariff.audited("2022-12", "2022-11", here.head(20), before)
    assert (few.now, few.changed, few.explained) == (None, False, None)
    assert tariff.verdict([few]).reason.startswith("too few metered trips in 2022-12 or 2022-11")
    assert tariff.Audit.from_json(json.loads(json.dumps(found.to_json()))) == found
