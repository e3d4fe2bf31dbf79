"""Every kind of file that arrives: what it is told to be, and what becomes of it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather
from trip_samples import at, green_file, green_table

from databricks_steps.settings import Settings
from databricks_steps.trips import demo, normalize, sources
from databricks_steps.trips.files import TripFile, promises_trips

NAMES = "VendorID,lpep_pickup_datetime,lpep_dropoff_datetime,PULocationID,DOLocationID"
NAMES += ",store_and_fwd_flag,trip_distance,fare_amount"
ROWS = [
    f"2,2022-01-{day:02d} 09:30:00,2022-01-{day:02d} 09:42:30,74,75,N,1.95,{day}.5"
    for day in range(1, 29)
]
CSV = "\n".join([NAMES, *ROWS]) + "\n"
SEMICOLONS = CSV.replace(",", ";")
COMMAS = SEMICOLONS.replace(".", ",")


def zipped(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/"), text)
    return out.getvalue()


def tarred(text: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("a.csv")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    rows = [{"fare_amount": float(f"{day}.5")} for day in range(1, 29)]
    pq.write_table(green_table(rows), out)
    return out.getvalue()


def arrow() -> bytes:
    out = io.BytesIO()
    feather.write_feather(green_table([{}]), out, "uncompressed")
    return out.getvalue()


def with_times(write: Callable[[str], str]) -> str:
    lines = [NAMES]
    for row in ROWS:
        fields = row.split(",")
        fields[1:3] = [write(text) for text in fields[1:3]]
        lines.append(",".join(fields))
    return "\n".join(lines) + "\n"


def american(text: str) -> str:
    year, month, rest = text.split("-")
    return f"{month}/{rest[:2]}/{year}{rest[2:]}"


def day_first(text: str) -> str:
    year, month, rest = text.split("-")
    return f"{rest[:2]}/{month}/{year}{rest[2:]}"


READ: dict[str, tuple[str, bytes]] = {
    "text": ("x_2022-01.csv", CSV.encode()),
    "text named parquet": ("x_2022-01.parquet", CSV.encode()),
    "parquet named text": ("x_2022-01.csv", parquet()),
    "parq": ("x_2022-01.parq", parquet()),
    "another ending": ("x_2022-01.dat", CSV.encode()),
    "gzip": ("x_2022-01.csv.gz", gzip.compress(CSV.encode())),
    "gzip, upper case": ("X_2022-01.CSV.GZ", gzip.compress(CSV.encode())),
    "gzip named text": ("x_2022-01.csv", gzip.compress(CSV.encode())),
    "text named gzip": ("x_2022-01.csv.gz", CSV.encode()),
    "two gzips in a row": (
        "x_2022-01.csv.gz",
        gzip.compress(CSV[:300].encode()) + gzip.compress(CSV[300:].encode()),
    ),
    "bz2": ("x_2022-01.csv.bz2", bz2.compress(CSV.encode())),
    "xz": ("x_2022-01.csv.xz", lzma.compress(CSV.encode())),
    "zip": ("x_2022-01.csv.zip", zipped(**{"x.csv": CSV})),
    "zip of a Mac": (
        "x_2022-01.zip",
        zipped(**{"in__x.csv": CSV, "__MACOSX__._x.csv": "junk", ".DS_Store": "junk"}),
    ),
    "sep=,": ("x_2022-01.csv", b"sep=,\n" + CSV.encode()),
    "sep=; with decimal commas": ("x_2022-01.csv", b"sep=;\r\n" + COMMAS.encode()),
    "semicolons": ("x_2022-01.csv", SEMICOLONS.encode()),
    "tabs": ("x_2022-01.tsv", CSV.replace(",", "\t").encode()),
    "bars": ("x_2022-01.txt", CSV.replace(",", "|").encode()),
    "utf-16": ("x_2022-01.csv", CSV.encode("utf-16")),
    "utf-16 without a mark": ("x_2022-01.csv", CSV.encode("utf-16-le")),
    "byte order mark": ("x_2022-01.csv", b"\xef\xbb\xbf" + CSV.encode()),
    "latin 1": ("x_2022-01.csv", CSV.replace(",N,", ",é,").encode("latin-1")),
    "NULs": ("x_2022-01.csv", CSV.replace(",N,", ",N\0,").encode()),
    "returns alone": ("x_2022-01.csv", CSV.replace("\n", "\r").encode()),
    "blank lines": ("x_2022-01.csv", ("\r\n\r\n" + CSV.replace("\n", "\r\n\r\n")).encode()),
    "all quoted": (
        "x_2022-01.csv",
        "\n".join(",".join(f'"{f}"' for f in r.split(",")) for r in CSV.splitlines()).encode(),
    ),
    "a note of two lines": (
        "x_2022-01.csv",
        CSV.replace(",N,", ',"N, see\nbelow",', 1).encode(),
    ),
    "american times": ("x_2022-01.csv", with_times(american).encode()),
    "+00:00": ("x_2022-01.csv", with_times(lambda text: f"{text}+00:00").encode()),
    "-05:00": ("x_2022-01.csv", with_times(lambda text: f"{text}-05:00").encode()),
    "no month in the name": ("trips", CSV.encode()),
}


def judged(folder: Path, name: str, content: bytes) -> TripFile:
    path = folder / name
    path.write_bytes(content)
    source = sources.gathered(str(folder), [sources.judged(path)], None)
    (file,) = (*source.files, *source.unread)
    return file


@pytest.mark.parametrize("kind", READ)
def test_what_holds_trips_is_read_whole(tmp_path: Path, kind: str) -> None:
    file = judged(tmp_path, *READ[kind])
    assert (file.problem, file.rows, file.months) == ("", 28, ("2022-01",))
    fares = [v for batch in normalize.file_rows(file) for v in batch["fare_amount"].to_pylist()]
    assert fares == [day + 0.5 for day in range(1, 29)]
    times = [v for batch in normalize.file_rows(file) for v in batch["pickup_datetime"].to_pylist()]
    assert {time.hour for time in times} == {9}


def test_a_time_in_another_writing_is_that_row_s_fault(tmp_path: Path) -> None:
    text = CSV.replace("2022-01-03 09:42:30", "31/01/2022 10:00")
    assert text != CSV
    file = judged(tmp_path, "x_2022-01.csv", text.encode())
    assert (file.problem, file.rows) == ("", 28)
    unread = [v for batch in normalize.file_rows(file) for v in batch["unreadable"].to_pylist()]
    assert [names for names in unread if names] == [["dropoff_datetime"]]


OPEN_QUOTE = CSV.replace(",N,", ',"N,', 1)
TWO_QUOTES = OPEN_QUOTE.replace(",N,", ',"N,', 1)
STRAY_QUOTES = CSV.replace("28.5", '"28.5').replace("2,2022-01-03", '"2,2022-01-03')
REFUSED: dict[str, tuple[str, bytes, str, str]] = {
    "nothing": ("x.csv", b"", "empty", "0 bytes"),
    "blanks": ("x.csv", b" \n\n \t\n", "empty", "blanks"),
    "half a parquet": ("x.parquet", parquet()[:-40], "truncated", "footer is missing"),
    "a damaged footer": ("x.parquet", b"PAR1" + bytes(80) + b"PAR1", "damaged", ""),
    "a pointer": ("x.parquet", b"version https://git-lfs.github.com/spec/v1\n", "format", "LFS"),
    "html": ("x.csv", b"<!doctype html><title>Log in</title>", "format", "HTML"),
    "html named parquet": ("x.parquet", b"\n <html>not found</html>", "format", "HTML"),
    "json": ("x.csv", b'{"error": "no such key"}', "format", "JSON"),
    "avro": ("x.parquet", b"Obj\x01" + bytes(40), "format", "Avro"),
    "orc": ("x.parquet", b"ORC" + bytes(40), "format", "ORC"),
    "arrow": ("x.parquet", arrow(), "format", "Arrow"),
    "pdf": ("x.csv", b"%PDF-1.7\n", "format", "PDF"),
    "old excel": ("x.csv", b"\xd0\xcf\x11\xe0" + bytes(40), "format", "Excel"),
    "excel": ("x.csv", zipped(**{"[Content_Types].xml": "<x/>"}), "format", "Excel"),
    "7-zip": ("x.csv", b"7z\xbc\xaf\x27\x1c" + bytes(40), "format", "7-Zip"),
    "zstd": ("x.csv", b"\x28\xb5\x2f\xfd" + bytes(40), "format", "zstd"),
    "bytes": ("x.csv", bytes(range(256)) * 4, "format", "neither parquet nor text"),
    "tar": ("x.csv", tarred(CSV), "format", "tar archive"),
    "tar in gzip": ("x.csv.gz", gzip.compress(tarred(CSV)), "archive", "tar archive"),
    "gzip in gzip": ("x.csv.gz", gzip.compress(gzip.compress(CSV.encode())), "packed", "twice"),
    "zip in gzip": ("x.csv.gz", gzip.compress(zipped(x=CSV)), "packed", "zip, and then"),
    "parquet in gzip": ("x.parquet.gz", gzip.compress(parquet()), "packed", "a parquet file"),
    "two in a zip": ("x.csv.zip", zipped(a=CSV, b=CSV), "archive", "zip archive of 2 files"),
    "none in a zip": ("x.csv.zip", zipped(), "archive", "zip archive of 0 files"),
    "half a zip": ("x.csv.zip", zipped(a=CSV)[:-30], "damaged", "zip"),
    "half a gzip": ("x.csv.gz", gzip.compress(CSV.encode())[:-30], "damaged", "compression"),
    "half a bz2": ("x.csv.bz2", bz2.compress(CSV.encode())[:-30], "damaged", "compression"),
    "half an xz": ("x.csv.xz", lzma.compress(CSV.encode())[:-30], "damaged", ""),
    "no header": ("x.csv", "\n".join(ROWS).encode(), "header", "its first line is '2,2022-01-01"),
    "other text": ("x.csv", b"Dear all,\nplease find attached\n", "columns", "'Dear all,'"),
    "a column less": ("x.csv", CSV.replace("fare_amount", "f").encode(), "columns", "fare_amount"),
    "for hire": ("x.csv", b"dispatching_base_num,pickup_datetime\nB1,\n", "service", "for-hire"),
    "places": ("x.csv", b"Start_Lon,Start_Lat,Fare_Amt\n1,2,3\n", "places", "longitude"),
    "an open quote": ("x.csv", OPEN_QUOTE.encode(), "quote", "line 2"),
    "two open quotes": ("x.csv", TWO_QUOTES.encode(), "quote", "line 2"),
    "quotes apart": ("x.csv", STRAY_QUOTES.encode(), "quote", "line 4"),
    "day first": ("x.csv", with_times(day_first).encode(), "values", "day first"),
    "times of a two-digit year": (
        "x.csv",
        with_times(lambda text: text.removeprefix("20")).encode(),
        "values",
        "pickup_datetime cannot be read in 28 of 28 rows, for example '22-01-01 09:30:00'",
    ),
    "another city's times": (
        "x.csv",
        with_times(lambda text: f"{text}+02:00").encode(),
        "values",
        "pickup_datetime",
    ),
    "words for fares": ("x.csv", CSV.replace(".5\n", " USD\n").encode(), "values", "' USD'"[1:-1]),
    "before the first month": ("x_2008-12.csv", CSV.encode(), "month", "2008-12"),
    "after today": ("x_2041-08.csv", CSV.encode(), "month", "2041-08"),
    "all clocks astray": ("x.csv", CSV.replace("2022-", "2041-").encode(), "month", "2041-01"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_should_hold_trips_and_does_not_is_refused(tmp_path: Path, kind: str) -> None:
    name, content, cause, told = REFUSED[kind]
    file = judged(tmp_path, name, content)
    assert (file.cause, file.passed) == (cause, False), file.problem
    assert told in file.problem
    assert file.remedy


PASSED: dict[str, tuple[str, bytes, str]] = {
    "notes": ("readme.txt", b"please load by Friday", "other"),
    "a picture": ("map.png", b"\x89PNG\r\n", "other"),
    "hidden": (".x_2022-01.csv", CSV.encode(), "hidden"),
    "of an engine": ("_SUCCESS", b"", "hidden"),
    "half copied": ("x_2022-01.csv.part", CSV.encode(), "unfinished"),
}


@pytest.mark.parametrize("kind", PASSED)
def test_what_is_no_file_of_trips_is_passed_over_and_told(tmp_path: Path, kind: str) -> None:
    name, content, cause = PASSED[kind]
    file = judged(tmp_path, name, content)
    assert (file.cause, file.passed) == (cause, True)
    assert file.problem
    assert file.remedy


def test_whatever_lies_in_a_folder_is_told_of_itself_alone(
    tmp_path: Path, settings: Settings
) -> None:
    folder = tmp_path / "source"
    green_file(folder)
    (folder / "loop_2022-02.csv").symlink_to("loop_2022-02.csv")
    (folder / "link.parquet").symlink_to("nowhere")
    os.mkfifo(folder / "pipe_2022-02.csv")
    (folder / "year=2022").mkdir()
    (folder / os.fsdecode(b"gr\xfcn_2022-02.parquet")).write_bytes(b"PAR1")
    twice = green_table([{}])
    names = [*twice.column_names, "fare_amount"]
    both = pa.Table.from_arrays([*twice.columns, twice["fare_amount"]], names=names)
    pq.write_table(both, folder / "twice_2022-03.parquet")
    found = sources.source(str(folder), None, settings, lambda: pytest.fail("no engine"))
    assert found.months == ("2022-01", "2022-03")
    assert {file.name: file.cause for file in found.unread} == {
        "loop_2022-02.csv": "not_a_file",
        "link.parquet": "not_a_file",
        "pipe_2022-02.csv": "not_a_file",
        "year=2022": "folder",
        "gr\\xfcn_2022-02.parquet": "name",
    }
    for file in found.unread:
        file.name.encode()


def test_the_same_content_is_read_once(tmp_path: Path, settings: Settings) -> None:
    for n, (name, content) in enumerate(
        {
            "a_2022-01.csv": CSV.encode(),
            "copy_2022-01.csv": CSV.encode(),
            "packed_2022-01.csv.gz": gzip.compress(CSV.encode()),
            "a_2022-02.csv": f"{NAMES}\n".encode(),
            "b_2022-02.csv": f"{NAMES}\n".encode(),
        }.items()
    ):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(n, n))
    found = sources.source(str(tmp_path), None, settings, lambda: pytest.fail("no engine"))
    assert [file.name for file in found.chosen] == [
        "a_2022-01.csv",
        "a_2022-02.csv",
        "b_2022-02.csv",
    ]
    assert [(file.name, file.cause) for file in found.unread] == [
        ("copy_2022-01.csv", "copy"),
        ("packed_2022-01.csv.gz", "copy"),
    ]


@pytest.mark.parametrize(
    ("pickups", "months"),
    [
        ({"2022-01": 899, "2041-08": 1}, ("2022-01",)),
        ({"2022-01": 899, "2009-01": 1}, ("2022-01",)),
        ({"2022-01": 899, "2009-01": 40}, ("2022-01",)),
        ({"2022-01": 60, "2022-02": 1}, ("2022-01",)),
        ({"2022-01": 59_000, "2022-02": 43}, ("2022-01",)),
        ({"2022-01": 59_000, "2022-02": 1_900}, ("2022-01", "2022-02")),
        ({"2022-01": 60, "2022-02": 40}, ("2022-01", "2022-02")),
        ({"2022-01": 1, "2022-02": 2}, ("2022-02", "2022-01")),
        ({"2008-12": 500, "2022-01": 3}, ("2022-01",)),
        ({"2022-01": 500, "2026-10": 400, "2026-11": 300}, ("2022-01", "2026-10")),
        ({}, ()),
    ],
)
def test_a_month_needs_mass_and_lies_between_the_first_and_today(
    pickups: dict[str, int], months: tuple[str, ...]
) -> None:
    assert normalize.fullest(pickups.items(), "2026-10") == months


def test_a_month_that_is_not_over_waits(tmp_path: Path) -> None:
    file = sources.judged(green_file(tmp_path))
    for day, causes in ((date(2022, 1, 31), ["not_over"]), (date(2022, 2, 1), [])):
        source = sources.gathered("x", [file], None, today=day)
        assert [each.cause for each in source.unread] == causes
        assert len(source.files) == 1 - len(causes)
    early = sources.gathered("x", [file], None, today=date(2021, 12, 31))
    assert [(each.cause, each.passed) for each in early.unread] == [("month", False)]


def test_a_dictionary_of_times_keeps_its_zone(tmp_path: Path) -> None:
    import pyarrow.compute as pc

    table = green_table([{}])
    for name in ("lpep_pickup_datetime", "lpep_dropoff_datetime"):
        zoned = pc.assume_timezone(table[name], "America/New_York").dictionary_encode()
        table = table.set_column(table.column_names.index(name), name, zoned)
    pq.write_table(table, tmp_path / "x_2022-01.parquet")
    file = sources.judged(tmp_path / "x_2022-01.parquet")
    (row,) = [row for batch in normalize.file_rows(file) for row in batch.to_pylist()]
    assert row["pickup_datetime"].replace(tzinfo=None) == at("2022-01-10 09:30:00")


def test_what_a_name_promises() -> None:
    assert all(map(promises_trips, ("a.csv", "a.CSV.gz", "a.parq", "x 2022-01", "a.tsv.zip")))
    assert not any(map(promises_trips, ("a.txt", "a.zip", "readme", f"{demo.PREFIX}x.json")))
