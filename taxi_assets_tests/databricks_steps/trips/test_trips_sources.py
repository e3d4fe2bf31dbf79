"""Sources: which files are found, which are refused and why, and what is downloaded."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from trip_samples import at, collected, green_file, green_table

from databricks_steps.errors import SourceError
from databricks_steps.settings import Settings
from databricks_steps.trips import demo, downloads, normalize, sources
from databricks_steps.trips.files import inspected, month_in

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CSV = "VendorID,fare_amount,trip_distance,PULocationID,DOLocationID"
CSV += ",lpep_pickup_datetime,lpep_dropoff_datetime\n"
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 1428262\n"
)
LINES = "2,9.5,2.0,74,75,2022-01-01 00:00:00,2022-01-01 00:10:00\n" * 2000


def no_spark() -> SparkSession:
    raise AssertionError("a file needs no Spark")


def found(
    text: Path | str, months: list[str] | None, settings: Settings, **options: Any
) -> sources.Source:
    return sources.source(str(text), months, settings, options.pop("spark", no_spark), **options)


@pytest.mark.parametrize(
    ("name", "month"),
    [
        ("green_tripdata_2022-01.parquet", "2022-01"),
        ("2022-01-15_2022-01.csv", "2022-01"),
        ("yellow_2022-01_2022-02.parquet", None),
        ("trips_12022-01.parquet", None),
        ("trips_2022-011.parquet", None),
        ("trips_2022-13.parquet", None),
        ("trips.parquet", None),
        ("trips_20２２-01.parquet", None),
    ],
)
def test_month_in_a_name(name: str, month: str | None) -> None:
    assert month_in(name) == month


def damaged_files(folder: Path) -> dict[str, str]:
    """Writes files that cannot be read; name → part of the reason."""
    whole = green_file(folder).read_bytes()
    packed = gzip.compress((CSV + LINES).encode(), 1)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    contents = {
        "a.parquet": (whole[:-500], "it is truncated: the parquet footer is missing"),
        "b.parquet": (POINTER, "it is a Git LFS pointer, not the data"),
        "c.parquet": (b"", "it is empty (0 bytes)"),
        "d.csv.gz": (packed[:-40], "its compression is damaged: Compressed file ended"),
        "e.csv.gz": (bytes(flipped), "its compression is damaged: CRC check failed"),
        "h.csv": (
            CSV.replace(",fare_amount", "").encode(),
            "it has no column for fare_amount",
        ),
        "i.parquet": (
            b"PAR1" + bytes(90) + b"PAR1",
            "it cannot be read: its parquet footer is damaged: ",
        ),
        "j.parquet": (b"<html>not found</html>", "it is a page of HTML or XML"),
        "k.csv": (b"\n\n \n", "it holds nothing but blanks"),
        "l.csv": (b"PK\x03\x04\x00\x00\xff\xfe\x00", "it cannot be read: File is not a zip file"),
        "o.csv": (b"\xef\xbb\xbf\n <html>not found</html>", "it is a page of HTML or XML"),
        "p.csv.gz": (gzip.compress(packed), "it is compressed with gzip twice"),
        "q.csv": (b"\x00\x01\x02" * 99, "it is neither parquet nor text"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    return {name: reason for name, (_, reason) in contents.items()}


def test_files_that_cannot_be_read_are_refused_by_name_and_the_others_load(
    tmp_path: Path, settings: Settings
) -> None:
    reasons = damaged_files(tmp_path)
    pq.write_table(green_table([{}]).drop(["PULocationID"]), tmp_path / "m.parquet")
    reasons["m.parquet"] = "it has no column for pickup_location_id"
    green_file(tmp_path, name="green_2008-12.parquet")
    reasons["green_2008-12.parquet"] = "its month, 2008-12, is not between 2009-01 and "
    ignored = (".hidden_2022-01.parquet", "_odd_2022-01.csv", "readme.txt", "archive.zip")
    for name in ignored:
        (tmp_path / name).write_text("x")
    green_file(tmp_path / "inside", name="green_tripdata_2022-02.parquet")
    source = found(tmp_path, None, settings)
    assert [file.name for file in source.files] == ["green_tripdata_2022-01.parquet"]
    assert source.months == ("2022-01",)
    problems = {file.name: file.problem for file in source.refused}
    assert set(problems) == set(reasons)
    assert {name: problems[name][: len(reason)] for name, reason in reasons.items()} == reasons
    assert all(file.cause and file.remedy for file in source.unread)
    passed = {file.name for file in source.unread if file.passed}
    assert passed == {*ignored, "inside"}


def test_when_every_file_is_refused_the_error_names_them(
    tmp_path: Path, settings: Settings
) -> None:
    damaged_files(tmp_path)
    (tmp_path / "green_tripdata_2022-01.parquet").unlink()
    with pytest.raises(SourceError) as caught:
        found(tmp_path, None, settings)
    message = str(caught.value)
    assert "At least one file of trips must be readable" in message
    assert "a.parquet: it is truncated" in message
    assert "q.csv: it is neither parquet nor text" in message


def test_a_month_that_no_file_holds(tmp_path: Path, settings: Settings) -> None:
    green_file(tmp_path)
    with pytest.raises(SourceError, match=r"has no 2022-02, 2022-03\. Name months that it holds"):
        found(tmp_path, ["2022-01", "2022-02", "2022-03"], settings)


def test_a_month_whose_only_file_is_damaged_does_not_stop_the_others(
    tmp_path: Path, settings: Settings
) -> None:
    whole = green_file(tmp_path)
    (tmp_path / "green_tripdata_2022-02.parquet").write_bytes(whole.read_bytes()[:-9])
    source = found(tmp_path, ["2022-01", "2022-02"], settings)
    assert source.months == ("2022-01",)
    assert [file.name for file in source.refused] == ["green_tripdata_2022-02.parquet"]
    with pytest.raises(SourceError, match=r"green_tripdata_2022-02\.parquet: it is truncated"):
        found(tmp_path, ["2022-02"], settings)


def test_a_damaged_file_of_another_month_is_told_and_stops_nothing(
    tmp_path: Path, settings: Settings
) -> None:
    green_file(tmp_path)
    (tmp_path / "green_tripdata_2022-02.parquet").write_bytes(POINTER)
    source = found(tmp_path, ["2022-01"], settings)
    assert [file.name for file in source.files] == ["green_tripdata_2022-01.parquet"]
    assert [file.name for file in source.refused] == ["green_tripdata_2022-02.parquet"]
    again = found(tmp_path, found(tmp_path, None, settings).months, settings)
    assert again.refused == source.refused, "as the step looks that a run has asked"


def test_one_file_as_a_source_and_its_hash(tmp_path: Path, settings: Settings) -> None:
    path = green_file(tmp_path)
    (file,) = found(path, None, settings).files
    assert file.hash == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert (file.format, file.months, file.named) == ("parquet", ("2022-01",), True)


def test_a_header_alone_is_an_empty_month(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "g_2022-01.csv").write_text(CSV)
    assert found(tmp_path, None, settings).months == ("2022-01",)


@pytest.mark.parametrize("name", ["trips.txt", "_trips_2022-01.parquet", ".trips_2022-01.csv"])
def test_a_file_with_another_name_as_a_source(
    tmp_path: Path, settings: Settings, name: str
) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(SourceError, match=r"one file of trips must be readable.*(text|hidden)"):
        found(tmp_path / name, None, settings)


def test_sources_that_are_not_there(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(SourceError, match="The source of trips must exist"):
        found(tmp_path / "nowhere", None, settings)
    with pytest.raises(SourceError, match="readable.*nothing lies there"):
        found(tmp_path, None, settings)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_without_permission(tmp_path: Path, settings: Settings) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    with pytest.raises(SourceError, match=r"must be readable.*Permission denied"):
        found(folder, None, settings)


def test_months_by_pickup_where_the_name_does_not_say(tmp_path: Path, settings: Settings) -> None:
    later = {"lpep_pickup_datetime": at("2022-02-03")}
    green_file(tmp_path, [{}, later, later], "trips.parquet")
    (tmp_path / "header.csv").write_text(CSV)
    source = found(tmp_path, None, settings)
    assert [(file.name, file.months) for file in source.files] == [
        ("trips.parquet", ("2022-02", "2022-01"))
    ]
    assert source.months == ("2022-01", "2022-02")
    (header,) = source.refused
    assert (header.cause, header.name) == ("month", "header.csv")
    assert found(tmp_path, ["2022-02"], settings).months == ("2022-02",)


@pytest.mark.long  # a JVM: Sail keeps no catalog
def test_a_table_in_the_catalog(jvm: SparkSession, tmp_path: Path, settings: Settings) -> None:
    green_file(tmp_path)
    frame = jvm.read.parquet(str(tmp_path)).drop("ehail_fee")
    frame.writeTo("spark_catalog.default.some_trips").using("parquet").create()
    try:
        name = "spark_catalog.default.some_trips"
        (file,) = found(name, None, settings, spark=lambda: jvm).files
        assert (file.name, file.format, file.months) == (name, "table", ("2022-01",))
        assert len(file.hash) == 16
        (row,) = normalize.raw_trips(jvm, [file], file.months).collect()
        assert (row["fare_amount"], row["source_file"], row["source_row"]) == (10.0, name, 0)
        assert collected(normalize.raw_trips(jvm, [file], ["2022-02"])) == []
        assert normalize.problem(file) == ""
    finally:
        jvm.sql("DROP TABLE spark_catalog.default.some_trips")


@pytest.mark.parametrize("name", ["samples.nyctaxi.trips", "spark_catalog.default.nothing"])
def test_a_table_that_is_not_in_the_catalog(
    spark: SparkSession, settings: Settings, name: str
) -> None:
    with pytest.raises(SourceError, match=f"{name}.*are on Databricks; here use demo or files"):
        found(name, None, settings, spark=lambda: spark)


def test_demo_and_real_files_in_one_folder(tmp_path: Path, settings: Settings) -> None:
    green_file(tmp_path)
    green_file(tmp_path, name="demo_tripdata_2022-02.parquet")
    source = found(tmp_path, None, settings)
    assert source.months == ("2022-01",)
    assert [(file.name, file.cause) for file in source.refused] == [
        ("demo_tripdata_2022-02.parquet", "demo")
    ]


def test_demo_is_the_default_months_or_those_asked_for(settings: Settings) -> None:
    assert found("demo", ["2019-05"], settings).months == ("2019-05",)
    source = found("demo", None, settings)
    assert source.months == demo.MONTHS
    assert source.is_demo


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The folder over HTTP: its address, and the paths asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if "2022-05" in self.path:
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"PAR1 and then the line went dead")
                return
            if "2022-06" in self.path:
                self.send_error(503)
                return
            super().do_GET()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_downloads_once_and_whole(tmp_path: Path, settings: Settings) -> None:
    original = green_file(tmp_path / "site")
    with served(tmp_path / "site") as (url, asked):
        for _ in range(2):
            source = found("tlc:green", ["2022-01"], settings, tlc_url=url)
            assert source.months == ("2022-01",)
    downloaded = settings.home / "downloads" / "green_tripdata_2022-01.parquet"
    assert downloaded.read_bytes() == original.read_bytes()
    assert len(asked) == 2
    ((file,), stamp) = (source.files, downloaded.stat().st_ctime_ns)
    with served(tmp_path / "site") as (url, _):
        found("tlc:green", ["2022-01"], settings, tlc_url=url)
        assert downloaded.stat().st_ctime_ns == stamp, "it is not even written again"
        green_file(tmp_path / "site", [{}, {}])
        os.utime(original, (file.changed / 1e9 + 60, file.changed / 1e9 + 60))
        (anew,) = found("tlc:green", ["2022-01"], settings, tlc_url=url).files
        assert (file.rows, anew.rows) == (1, 2), "published anew"
    kept = found("tlc:green", ["2022-01"], settings, tlc_url="http://127.0.0.1:1")
    assert kept.files == (anew,), "the network is down"


def test_what_a_portal_answers_is_not_kept_as_the_month(tmp_path: Path, settings: Settings) -> None:
    site = tmp_path / "site" / "green_tripdata_2022-01.parquet"
    site.parent.mkdir()
    site.write_bytes(b"<html>Please log in</html>")
    with served(site.parent) as (url, _):
        with pytest.raises(SourceError, match=r"must come through.*HTML"):
            found("tlc:green", ["2022-01"], settings, tlc_url=url)
        assert list((settings.home / "downloads").iterdir()) == []
        green_file(site.parent)
        assert found("tlc:green", ["2022-01"], settings, tlc_url=url).months == ("2022-01",)


@pytest.mark.parametrize(
    ("month", "message"),
    [
        ("2022-04", "must be published.*yellow_tripdata_2022-04.parquet is not at"),
        ("2022-05", "must come through.*32 of 1000 bytes came.*Check the network"),
        ("2022-06", "must come through.*HTTP 503"),
    ],
)
def test_downloads_that_fail_leave_nothing(
    tmp_path: Path, settings: Settings, month: str, message: str
) -> None:
    with served(tmp_path) as (url, _), pytest.raises(SourceError, match=message):
        found("tlc:yellow", [month], settings, tlc_url=url)
    assert list((settings.home / "downloads").iterdir()) == []


def test_a_network_that_is_down(settings: Settings) -> None:
    with pytest.raises(SourceError, match=r"must come through.*Check the network"):
        found("tlc:green", ["2022-01"], settings, tlc_url="http://127.0.0.1:1")


def test_downloads_need_a_service_and_months(settings: Settings) -> None:
    assert downloads.TLC_URL.startswith("https://")
    with pytest.raises(SourceError, match="Use tlc:green or tlc:yellow"):
        found("tlc:fhv", ["2022-01"], settings)
    with pytest.raises(SourceError, match="A download needs months"):
        found("tlc:green", None, settings)


def test_inspecting_a_folder_that_is_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").mkdir()
    file = inspected(tmp_path / "x.parquet")
    assert (file.cause, file.passed) == ("folder", True)
