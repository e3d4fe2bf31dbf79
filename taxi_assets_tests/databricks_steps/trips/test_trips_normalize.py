"""Rows of raw_trips from files of every type and spelling that publishers use."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from trip_samples import (
    DROPOFF,
    GREEN_ROW,
    NORMAL_ROW,
    PICKUP,
    at,
    collected,
    green_file,
    green_table,
    months_of,
    read,
    without_zones,
)

from databricks_steps import schemas
from databricks_steps.trips import normalize
from databricks_steps.trips.files import TripFile

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PUBLISHED = [column.name for column in schemas.PUBLISHED]
CSV_HEADER = (
    "vendor_id,pickup_datetime,dropoff_datetime,passenger_count,trip_distance,rate_code_id,"
    "store_and_fwd_flag,pickup_location_id,dropoff_location_id,payment_type,fare_amount"
)
CSV_ROW = "2,2022-01-10 09:30:00,2022-01-10 09:42:30,1,1.95,1,N,74,75,1,10.0"
CSV_VALUES = {
    name: NORMAL_ROW[name] if name in CSV_HEADER.split(",") else None for name in PUBLISHED
}


def rows(*files: TripFile) -> list[dict[str, Any]]:
    """The files' rows in this process, but for their ids, ordered by file and row."""
    found: list[dict[str, Any]] = []
    for file in files:
        for batch in normalize.file_rows(file):
            assert batch.schema.names == list(schemas.RAW_TRIPS.names[1:])
            found += without_zones(batch.to_pylist())
    return sorted(found, key=lambda row: (row["source_file"], row["source_row"]))


def raw_rows(spark: SparkSession, *files: TripFile) -> list[dict[str, Any]]:
    """The files' rows in raw_trips, as the engine has them: the same, and their ids."""
    months = sorted({month for file in files for month in file.months})
    frame = normalize.raw_trips(spark, files, months)
    assert frame.columns == list(schemas.RAW_TRIPS.names)
    types = [field.dataType.simpleString() for field in schemas.RAW_TRIPS.spark()]
    assert [field.dataType.simpleString() for field in frame.schema] == types
    found = sorted(collected(frame), key=lambda row: (row["source_file"], row["source_row"]))
    without_ids = [{k: v for k, v in row.items() if k != "trip_id"} for row in found]
    assert without_ids == rows(*files)
    return found


def published(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in PUBLISHED}


def test_a_green_row_is_normalized_with_its_source(spark: SparkSession, tmp_path: Path) -> None:
    file = read(green_file(tmp_path))
    (row,) = raw_rows(spark, file)
    assert published(row) == NORMAL_ROW
    assert (row["source_file"], row["source_row"]) == ("green_tripdata_2022-01.parquet", 0)
    assert (row["source_hash"], row["unreadable"]) == (file.hash, [])
    assert row["trip_month"] == "2022-01"


def test_drifting_types_give_the_same_row(tmp_path: Path) -> None:
    drifts: dict[str, dict[str, pa.DataType]] = {
        "later": {
            **dict.fromkeys(("VendorID", "PULocationID", "DOLocationID"), pa.int32()),
            **dict.fromkeys(("RatecodeID", "passenger_count", "payment_type"), pa.int64()),
            "store_and_fwd_flag": pa.large_string(),
            "ehail_fee": pa.float64(),
        },
        "floats": {
            "VendorID": pa.float64(),
            "trip_distance": pa.float32(),
            "store_and_fwd_flag": pa.dictionary(pa.int32(), pa.string()),
        },
        "odd": {
            "VendorID": pa.uint32(),
            "PULocationID": pa.int16(),
            "DOLocationID": pa.uint64(),
            "fare_amount": pa.decimal128(9, 2),
            "extra": pa.decimal128(30, 4),
            "passenger_count": pa.string(),
            "trip_type": pa.null(),
        },
    }
    files = [
        read(green_file(tmp_path, name=f"{name}_2022-01.parquet", types=types))
        for name, types in drifts.items()
    ]
    floats, later, odd = rows(*files)
    assert published(floats) == NORMAL_ROW
    assert published(later) == NORMAL_ROW
    assert published(odd) == NORMAL_ROW | {"trip_type": None}
    assert Decimal(str(odd["fare_amount"])) == Decimal(10)


def test_times_are_wall_clock_whatever_their_type(spark: SparkSession, tmp_path: Path) -> None:
    texts = {
        "text": "2022-01-10 09:30:00",
        "iso": "2022-01-10T09:30:00.000",
        "zulu": "2022-01-10 09:30:00 UTC",
        "american": "01/10/2022 09:30:00 AM",
        "sheet": "1/10/2022 9:30",
    }
    times: dict[str, pa.Array] = {
        unit: pa.array([PICKUP]).cast(pa.timestamp(unit)) for unit in ("ms", "us", "ns")
    }
    times["utc"] = pa.array([PICKUP]).cast(pa.timestamp("us", "UTC"))
    # 14:30 UTC is 9:30 in New York; a file that says so means the clock on the wall.
    new_york = pa.array([PICKUP.replace(hour=14)]).cast(pa.timestamp("us", "UTC"))
    times["zoned"] = new_york.cast(pa.timestamp("us", "America/New_York"))
    times |= {name: pa.array([text]) for name, text in texts.items()}
    files = []
    for name, values in {**times, "int96": times["ns"]}.items():
        path = tmp_path / f"{name}_2022-01.parquet"
        table = green_table([{}]).drop(["lpep_pickup_datetime"])
        table = table.append_column("tpep_pickup_datetime", values)
        pq.write_table(table, path, use_deprecated_int96_timestamps=name == "int96")
        files.append(read(path))
    found = {row["source_file"]: row for row in raw_rows(spark, *files)}
    assert len(found) == 11
    assert {name: row["pickup_datetime"] for name, row in found.items()} == dict.fromkeys(
        found, PICKUP
    )
    assert {tuple(row["unreadable"]) for row in found.values()} == {()}
    # The same trip has the same id however its file is typed.
    assert len({row["trip_id"][:24] for row in found.values()}) == 1


def test_columns_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    values = green_table([{}]).to_pydict()
    names = {"fare_amount": " Fare_Amount ", "PULocationID": "pulocationid", "extra": "EXTRA"}
    shuffled = {names.get(name, name): values[name] for name in sorted(values, reverse=True)}
    shuffled |= {"cbd_congestion_fee": [0.75], "never heard of": ["x"], "Airport_fee": [1.25]}
    shuffled.pop("congestion_surcharge")
    path = tmp_path / "odd [names]* 2022-01.parquet"
    pq.write_table(pa.table(shuffled), path)
    (row,) = rows(read(path))
    expected = {"cbd_congestion_fee": 0.75, "airport_fee": 1.25, "congestion_surcharge": None}
    assert published(row) == NORMAL_ROW | expected


def test_columns_that_differ_in_case_alone_complete_each_other(
    spark: SparkSession, tmp_path: Path
) -> None:
    table = green_table([{}, {"VendorID": 1}, {"VendorID": 6}])
    table = table.append_column("airport_fee", pa.array([1.25, None, None]))
    table = table.append_column("Airport_fee", pa.array([None, 1.75, None], pa.float64()))
    path = tmp_path / "joined_2022-01.parquet"
    pq.write_table(table, path)
    found = raw_rows(spark, read(path))
    assert [row["airport_fee"] for row in found] == [1.25, 1.75, None]


def test_green_and_yellow_trips_in_one_file_have_their_times(
    spark: SparkSession, tmp_path: Path
) -> None:
    table = green_table([{}, {}])
    for end in ("pickup", "dropoff"):
        times = table[f"lpep_{end}_datetime"].to_pylist()
        place = table.schema.get_field_index(f"lpep_{end}_datetime")
        table = table.set_column(place, f"lpep_{end}_datetime", pa.array([times[0], None]))
        table = table.append_column(f"tpep_{end}_datetime", pa.array([None, times[1]]))
    path = tmp_path / "joined_2022-01.parquet"
    pq.write_table(table, path)
    found = raw_rows(spark, read(path))
    assert [published(row) for row in found] == [NORMAL_ROW, NORMAL_ROW]


def test_values_that_are_not_numbers(tmp_path: Path) -> None:
    changes = [
        {"trip_distance": float("nan"), "passenger_count": float("nan")},
        {"trip_distance": float("inf"), "passenger_count": 1.5},
        {"passenger_count": 3e9},
    ]
    nan, infinite, big = rows(read(green_file(tmp_path, changes)))
    assert (nan["trip_distance"], nan["passenger_count"], nan["unreadable"]) == (None, None, [])
    assert (infinite["trip_distance"], infinite["passenger_count"]) == (None, None)
    assert infinite["unreadable"] == ["passenger_count", "trip_distance"]
    assert (big["passenger_count"], big["unreadable"]) == (None, ["passenger_count"])


def test_csv_with_everything_wrong(spark: SparkSession, tmp_path: Path) -> None:
    header = CSV_HEADER.replace("vendor_id", ' "vendor_id" ').replace("fare", " fare")
    lines = [
        header,
        "",
        CSV_ROW,
        CSV_ROW.replace("2,2022", "1,2022", 1) + ",more,than,the,header",
        "   ",
        "6,2022-01-10 09:30:00",
        "",
        CSV_ROW.replace("10.0", "ten").replace("09:42:30", "25:42:30").replace(",N,", ', "N" ,'),
        CSV_ROW.replace("10.0", "1d").replace(",1,1.95", ",one,1.95"),
        CSV_ROW.replace("1.95", "").replace("10.0", " 10.0 "),
        "",
    ]
    path = tmp_path / "dirty_2022-01.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    found = raw_rows(spark, read(path))
    nothing = dict.fromkeys(PUBLISHED)
    assert [published(row) for row in found] == [
        CSV_VALUES,
        CSV_VALUES | {"vendor_id": 1},
        nothing | {"vendor_id": 6, "pickup_datetime": PICKUP},
        CSV_VALUES | {"fare_amount": None, "dropoff_datetime": None},
        CSV_VALUES | {"fare_amount": None, "passenger_count": None},
        CSV_VALUES | {"trip_distance": None},
    ]
    assert [row["unreadable"] for row in found] == [
        [],
        [],
        [],
        ["dropoff_datetime", "fare_amount"],
        ["passenger_count", "fare_amount"],
        [],
    ]
    assert sorted({row["source_row"] for row in found}) == [row["source_row"] for row in found]


def test_csv_in_other_writings(spark: SparkSession, tmp_path: Path) -> None:
    text = f"{CSV_HEADER}\n{CSV_ROW}\n"
    (tmp_path / "a_2022-01.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "b_2022-01.csv").write_bytes(text.encode("utf-16"))
    (tmp_path / "c_2022-01.csv").write_text(text.replace(",", ";"))
    (tmp_path / "d_2022-01.csv").write_text(f"{CSV_HEADER}\n")
    found = raw_rows(spark, *(read(path) for path in sorted(tmp_path.iterdir())))
    assert [row["source_file"][0] for row in found] == ["a", "b", "c"]
    assert [published(row) for row in found] == [CSV_VALUES] * 3
    assert [row["trip_id"][24:] for row in found] == ["", "-1", "-2"]


def test_a_text_file_and_a_parquet_file_give_a_trip_the_same_id(
    spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "t_2022-01.csv").write_text(
        ",".join(GREEN_ROW)
        + "\n"
        + ",".join("" if v is None else str(v) for v in GREEN_ROW.values())
    )
    parquet, text = raw_rows(spark, read(green_file(tmp_path)), read(tmp_path / "t_2022-01.csv"))
    assert text["trip_id"] == parquet["trip_id"] + "-1"


def test_ids_stay_when_the_publisher_reorders_the_file(spark: SparkSession, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{"fare_amount": 10.0 + i} for i in range(5)]
    changes += [{"fare_amount": 10.0}, {"fare_amount": 10.0}]
    first = raw_rows(spark, read(green_file(tmp_path / "a", changes)))
    again = raw_rows(spark, read(green_file(tmp_path / "a", changes)))
    turned = raw_rows(spark, read(green_file(tmp_path / "b", changes[::-1])))
    assert [row["trip_id"] for row in again] == [row["trip_id"] for row in first]
    fares = {row["trip_id"]: row["fare_amount"] for row in first}
    assert {row["trip_id"]: row["fare_amount"] for row in turned} == fares
    assert len(fares) == 7
    copies = sorted(i for i, fare in fares.items() if fare == 10.0)
    assert copies == [copies[0], f"{copies[0]}-1", f"{copies[0]}-2"]
    assert first[0]["trip_id"].startswith("2022-01-")
    assert len(first[0]["trip_id"]) == normalize.ID_LENGTH


def test_a_null_beside_a_value_does_not_look_like_the_value_beside_a_null(
    spark: SparkSession, tmp_path: Path
) -> None:
    changes = [{"extra": 0.5, "mta_tax": None}, {"extra": None, "mta_tax": 0.5}]
    one, other = raw_rows(spark, read(green_file(tmp_path, changes)))
    assert one["trip_id"][:24] != other["trip_id"][:24]


def test_months_of_a_file_whose_name_does_not_say(spark: SparkSession, tmp_path: Path) -> None:
    def picked_up(text: str) -> dict[str, Any]:
        return {"lpep_pickup_datetime": at(text)}

    changes = [picked_up("2022-02-01")] * 1500 + [picked_up("2022-01-31 23:59:59.999999")] * 80
    changes += [picked_up("2041-01-01"), picked_up("2008-12-31"), {"lpep_pickup_datetime": None}]
    path = green_file(tmp_path, changes, "trips_20220101-20220228.parquet")
    months = months_of(read(path))
    assert months == ("2022-02", "2022-01")
    found = raw_rows(spark, read(path, *months))
    assert [row["trip_month"] for row in found[1500:]] == [
        *["2022-01"] * 80,
        "2022-02",  # outside the file's months: with its fullest, where a rule finds it
        "2022-02",
        "2022-02",
    ]


def test_a_month_in_the_name_is_the_month_of_every_row(tmp_path: Path) -> None:
    changes = [{"lpep_pickup_datetime": t} for t in (at("2008-12-31"), DROPOFF, None)]
    found = rows(read(green_file(tmp_path, changes)))
    assert [row["trip_month"] for row in found] == ["2022-01"] * 3


def test_only_the_months_asked_for(spark: SparkSession, tmp_path: Path) -> None:
    changes = [{}, {"lpep_pickup_datetime": at("2022-02-01")}]
    file = read(green_file(tmp_path, changes, "both.parquet"), "2022-01", "2022-02")
    frame = normalize.raw_trips(spark, [file], ["2022-02"])
    assert [row["pickup_datetime"] for row in collected(frame)] == [at("2022-02-01")]
    assert normalize.raw_trips(spark, [], ["2022-02"]).columns == list(schemas.RAW_TRIPS.names)
