"""Files of every encoding, codec and shape, read without an engine; and those that are damaged."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from trip_samples import GREEN_ROW, PICKUP, green_file, green_table, read

from databricks_steps.trips import normalize, reading
from databricks_steps.trips.files import TripFile, inspected

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HEADER = "VendorID,lpep_pickup_datetime,lpep_dropoff_datetime,PULocationID,DOLocationID"
HEADER += ",trip_distance,fare_amount"
LINE = "2,2022-01-10 09:30:00,2022-01-10 09:42:30,74,75,1.95,{}"


def values(file: TripFile, name: str) -> list[Any]:
    return [v for batch in normalize.file_rows(file) for v in batch[name].to_pylist()]


def written(folder: Path, table: pa.Table, name: str = "green_2022-01.parquet", **how: Any) -> Path:
    pq.write_table(table, folder / name, **how)
    return folder / name


@pytest.mark.parametrize(
    "how",
    [
        {"use_dictionary": False, "use_byte_stream_split": ["fare_amount", "trip_distance"]},
        {
            "use_dictionary": False,
            "data_page_version": "2.0",
            "column_encoding": {
                "PULocationID": "DELTA_BINARY_PACKED",
                "store_and_fwd_flag": "DELTA_LENGTH_BYTE_ARRAY",
                "fare_amount": "BYTE_STREAM_SPLIT",
            },
        },
        {"compression": "brotli"},
        {"compression": "zstd"},
        {"compression": "none", "store_schema": False},
    ],
    ids=["byte_stream_split", "delta", "brotli", "zstd", "plain"],
)
def test_every_encoding_and_codec(tmp_path: Path, how: dict[str, Any]) -> None:
    rows = [{"fare_amount": 10.0 + n, "store_and_fwd_flag": "YN"[n % 2]} for n in range(50)]
    file = read(written(tmp_path, green_table(rows), **how))
    assert values(file, "fare_amount") == [10.0 + n for n in range(50)]
    assert values(file, "store_and_fwd_flag") == ["Y", "N"] * 25
    assert values(file, "pickup_location_id") == [74] * 50
    assert values(file, "pickup_datetime")[0].replace(tzinfo=None) == PICKUP


def test_floats_of_16_bits(tmp_path: Path) -> None:
    table = green_table([{}, {}]).drop(["fare_amount"])
    fares = pa.array([np.float16(10.1), None], pa.float16())
    file = read(written(tmp_path, table.append_column("fare_amount", fares)))
    assert values(file, "fare_amount") == [10.1, None]


@pytest.mark.parametrize(
    "name", ["green 2022-01 10:30.parquet", "a:b_2022-01.csv", "GREEN_2022-01.CSV.GZ"]
)
def test_names_that_some_readers_do_not_take(
    spark: SparkSession, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "x:y" / name
    path.parent.mkdir()
    text = f"{HEADER}\n{LINE.format(10)}\n"
    if name.endswith("parquet"):
        green_file(path.parent, name=name)
    else:
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("GZ") else text.encode())
    frame = normalize.raw_trips(spark, [read(path)], ["2022-01"])
    assert [(row["source_file"], row["fare_amount"]) for row in frame.collect()] == [(name, 10.0)]


def test_two_columns_of_exactly_one_name(tmp_path: Path) -> None:
    table = green_table([{}, {"fare_amount": None}])
    table = table.append_column("fare_amount", pa.array(["x", "12.5"]))
    inner = pa.array([{"fare_amount": 1.0, "l": [1]}] * 2)
    table = pa.Table.from_arrays([inner, *table.columns], ["nested", *table.column_names])
    file = read(written(tmp_path, table))
    assert values(file, "fare_amount") == [10.0, 12.5]
    assert values(file, "unreadable") == [[], []]
    assert file.layout.unknown == ()
    text = tmp_path / "t_2022-01.csv"
    text.write_text(f"{HEADER},fare_amount\n{LINE.format('')},7\n{LINE.format('x')},\n")
    assert values(read(text), "fare_amount") == [7.0, None]
    assert values(read(text), "unreadable") == [[], ["fare_amount"]]


def test_a_dictionary_of_times_keeps_its_zone(tmp_path: Path) -> None:
    local = pc.assume_timezone(pa.array([PICKUP] * 2, pa.timestamp("us")), "America/New_York")
    table = green_table([{}, {}]).drop(["lpep_pickup_datetime"])
    table = table.append_column("lpep_pickup_datetime", local.dictionary_encode())
    found = values(read(written(tmp_path, table)), "pickup_datetime")
    assert [time.replace(tzinfo=None) for time in found] == [PICKUP] * 2


def test_a_zone_that_there_is_not_is_refused(tmp_path: Path) -> None:
    table = green_table([{}]).drop(["lpep_pickup_datetime"])
    times = pa.array([0], pa.timestamp("us", "Mars/Olympus"))
    file = inspected(written(tmp_path, table.append_column("lpep_pickup_datetime", times)))
    assert file.problem.startswith("it cannot be read: Cannot locate")


@pytest.mark.parametrize("part_rows", [1, 25, 10_000])
def test_row_groups_are_read_apart_and_rows_are_numbered_through(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_rows: int
) -> None:
    table = green_table([{"fare_amount": 3.0 + n} for n in range(100)])
    file = read(written(tmp_path, table, row_group_size=10))
    monkeypatch.setattr(reading, "PART_ROWS", part_rows)
    parts = reading.parts(file)
    assert [group for part in parts for group in part] == list(range(10))
    assert len(parts) == {1: 10, 25: 4, 10_000: 1}[part_rows]
    rows = normalize.raw_trips(spark, [file], ["2022-01"]).collect()
    assert sorted((r["source_row"], r["fare_amount"]) for r in rows) == [
        (n, 3.0 + n) for n in range(100)
    ]
    assert values(file, "source_row") == list(range(100))


def test_a_file_without_rows_or_row_groups(tmp_path: Path) -> None:
    empty = green_table([{}]).slice(0, 0)
    with pq.ParquetWriter(tmp_path / "none_2022-01.parquet", empty.schema):
        pass
    for file in (read(tmp_path / "none_2022-01.parquet"), read(written(tmp_path, empty))):
        assert len(reading.parts(file)) == 1
        assert values(file, "fare_amount") == []


def test_text_is_read_over_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TEXT_ROWS", 7)
    lines = [LINE.format(n) for n in range(3, 23)]
    path = tmp_path / "t_2022-01.csv"
    path.write_text("\r".join([HEADER, *lines, ""]))
    assert [first for first, _ in reading.batches(read(path))] == [0, 7, 14]
    assert values(read(path), "source_row") == list(range(20))
    assert values(read(path), "fare_amount") == [float(n) for n in range(3, 23)]


def test_ragged_and_empty_rows(tmp_path: Path) -> None:
    """Longer rows lose what no column of the header has; shorter ones have nulls."""
    lines = [
        "",
        " \t",
        HEADER,
        LINE.format(10),
        LINE.format(11) + ",more,fields",
        ",,,,,,",
        ",,,,,,,beyond",
        "2,2022-01-10 09:30:00",
        "2",
        LINE.format('"12"'),
        "",
    ]
    path = tmp_path / "t_2022-01.csv"
    path.write_text("\n".join(lines))
    file = read(path)
    assert values(file, "fare_amount") == [10.0, 11.0, None, None, 12.0]
    assert values(file, "vendor_id") == [2] * 5
    assert values(file, "pickup_datetime")[3] is None
    assert values(file, "unreadable") == [[]] * 5


@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("preface", ["", "\n", "sep={}\n"])
def test_text_in_every_writing(tmp_path: Path, delimiter: str, encoding: str, preface: str) -> None:
    head = f"{HEADER},store_and_fwd_flag"
    text = f"{head}\n{LINE.format('10')},N\0\n{LINE.format('11')},é\n".replace(",", delimiter)
    path = tmp_path / "t_2022-01.csv"
    path.write_bytes((preface.format(delimiter) + text).encode(encoding))
    assert values(read(path), "fare_amount") == [10.0, 11.0]
    flags = values(read(path), "store_and_fwd_flag")
    assert flags == ["N", "\ufffd" if encoding == "latin-1" else "é"]


def test_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    file = read(green_file(tmp_path))
    assert normalize.problem(file) == ""
    Path(file.path).unlink()
    assert normalize.problem(file).startswith("its rows cannot be read: ")
    assert normalize.problem(file).endswith("No such file or directory")
    lines = "".join(LINE.format(n) + "\n" for n in range(2000))
    path = tmp_path / "t_2022-01.csv.gz"
    packed = gzip.compress(f"{HEADER}\n{lines}".encode())
    path.write_bytes(packed)
    text = read(path)
    path.write_bytes(packed[:-30])
    assert normalize.problem(text).startswith("its rows cannot be read: Compressed file ended")
    for bad in (b"\xff" * 40, packed[40:80]):
        path.write_bytes(packed[:60] + bad + packed[100:])
        assert normalize.problem(text).startswith("its rows cannot be read: ")


def test_a_field_without_an_end_is_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "t_2022-01.csv"
    lines = "".join(LINE.format(n) + "\n" for n in range(4000))
    path.write_text(f'{HEADER}\n"{lines}')
    assert normalize.problem(read(path)).startswith(
        "rows would be lost: a quote is opened in line 2 "
    )


def test_every_column_of_a_row_comes_from_its_own_place(tmp_path: Path) -> None:
    table = green_table([{}])
    turned = table.select(table.column_names[::-1])
    first = [batch.to_pylist() for batch in normalize.file_rows(read(written(tmp_path, table)))]
    again = read(written(tmp_path, turned, "turned_2022-01.parquet"))
    ours = {"source_file", "source_hash"}
    for (row,), (other,) in zip(
        first, (b.to_pylist() for b in normalize.file_rows(again)), strict=True
    ):
        assert {k for k in row if row[k] != other[k]} <= ours
    assert len(again.layout.columns) == len(GREEN_ROW)


@pytest.mark.parametrize("part", ["footer", "pages"])
def test_bytes_that_are_flipped_anywhere_raise_nothing(tmp_path: Path, part: str) -> None:
    """A damaged file is refused, or gives what can still be read of it; never a traceback."""
    path = green_file(tmp_path, [{"fare_amount": 3.0 + n} for n in range(100)])
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    first, end = (footer, len(whole) - 8) if part == "footer" else (4, footer)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        for place in rng.integers(first, end, rng.choice([1, 3, 20])):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        file = inspected(path)
        refused += bool(file.problem or normalize.problem(file))
    assert refused > 50
