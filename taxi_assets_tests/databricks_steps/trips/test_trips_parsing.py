"""Values of every type and writing that publishers use, and those that are none; no engine."""

from __future__ import annotations

import re
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_steps.table import Type
from databricks_steps.trips import parsing

at = datetime.fromisoformat
FIRST, LAST = at("0001-01-01"), at("9999-12-31 23:59:59.999999")


def read(array: pa.Array, kind: Type) -> list[Any]:
    found = parsing.typed(parsing.present(array), kind)
    found.validate(full=True)
    assert len(found) == len(array)
    return list(found.to_pylist())


def test_what_publishers_write_when_there_is_nothing() -> None:
    words = ["", "  ", "null", "None", " NaN ", "NAT", "N/A", "\\N", "\t", None]
    assert parsing.present(pa.array(words)).to_pylist() == [None] * len(words)
    assert parsing.present(pa.array([" Y\r\n", "nul", "0"])).to_pylist() == ["Y", "nul", "0"]
    for kind in (pa.float64(), pa.float32()):
        assert parsing.present(pa.array([1.5, float("nan"), None], kind)).to_pylist() == [
            1.5,
            None,
            None,
        ]
    assert read(pa.nulls(2), "int") == read(pa.nulls(2), "timestamp") == [None, None]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()],
    ids=str,
)
def test_text_of_every_type(kind: pa.DataType) -> None:
    texts = pa.array(["Y", "é ", None, "nan"]).cast(kind)
    assert read(texts, "string") == ["Y", "é", None, None]
    assert read(texts.dictionary_encode(), "string") == ["Y", "é", None, None]


def test_bytes_that_are_no_text() -> None:
    assert read(pa.array([b"N\xff", b"1", None]), "string") == ["N\ufffd", "1", None]
    assert read(pa.array([b"N\xff", b"1", None]), "double") == [None, 1.0, None]


def test_floats_go_by_their_shortest_text() -> None:
    numbers = [1.2, 0.1, 13.3, -7.25, float("inf"), 0.0]
    expected = [1.2, 0.1, 13.3, -7.25, None, 0.0]
    assert read(pa.array(numbers, pa.float32()), "double") == expected
    halves = pa.array([*np.array(numbers, np.float16), None], pa.float16())
    assert read(halves, "double") == [*expected, None]
    assert read(pa.array(np.array([2, 2.5, np.nan], np.float16)), "int") == [2, None, None]


@pytest.mark.parametrize(
    ("array", "whole", "double"),
    [
        (pa.array([2**31 - 1, -(2**31), 2**31, 2**62]), [2**31 - 1, -(2**31), None, None], None),
        (pa.array([255, 0], pa.uint8()), [255, 0], [255.0, 0.0]),
        (pa.array([2**32 - 1, 7], pa.uint32()), [None, 7], [2.0**32 - 1, 7.0]),
        (pa.array([2**64 - 1, 7], pa.uint64()), [None, 7], [2.0**64, 7.0]),
        (pa.array([1.0, 1.5, 3e9, -0.0]), [1, None, None, 0], [1.0, 1.5, 3e9, 0.0]),
        (
            pa.array([Decimal("1.20"), Decimal("3.00")], pa.decimal128(9, 2)),
            [None, 3],
            [1.2, 3.0],
        ),
        (pa.array([Decimal("74"), None], pa.decimal256(60, 4)), [74, None], [74.0, None]),
        (pa.array([True, False]), [None, None], [None, None]),
        (pa.array([date(2022, 1, 10), None]), [None, None], [None, None]),
        (pa.array([[1.0], None]), [None, None], [None, None]),
        (pa.array([{"a": 1}, None]), [None, None], [None, None]),
    ],
    ids=lambda each: str(each.type) if isinstance(each, pa.Array) else "",
)
def test_numbers_of_every_type(
    array: pa.Array, whole: list[int | None], double: list[float | None] | None
) -> None:
    assert read(array, "int") == whole
    if double:
        assert read(array, "double") == double


TEXTS: dict[str, tuple[int | None, float | None]] = {
    "5": (5, 5.0),
    "+5": (5, 5.0),
    "-5.": (-5, -5.0),
    "1.00": (1, 1.0),
    ".5": (None, 0.5),
    "1.5": (None, 1.5),
    "1e2": (None, 100.0),
    "1E-2": (None, 0.01),
    "1e999": (None, None),
    "3000000000": (None, 3e9),
    "1d": (None, None),
    "0x10": (None, None),
    "1_000": (None, None),
    "1,5": (None, None),
    "inf": (None, None),
    "Infinity": (None, None),
    "-inf": (None, None),
    "٣": (None, None),
    "1 2": (None, None),
    ".": (None, None),
    "one": (None, None),
    "true": (None, None),
}


@pytest.mark.parametrize("text", TEXTS)
def test_numbers_in_text(text: str) -> None:
    """Alone, and beside a text that is no number: another way is taken."""
    whole, double = TEXTS[text]
    for texts in ([text], [text, "ten"]):
        assert read(pa.array(texts), "int")[0] == whole
        assert read(pa.array(texts), "double")[0] == double


NUMBER = re.compile(parsing._NUMBER, re.ASCII)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("0123456789+-.eEdx_ infa", max_size=8), min_size=1, max_size=6))
def test_a_number_is_read_as_python_reads_it_or_not_at_all(texts: list[str]) -> None:
    found = read(pa.array(texts, pa.string()), "double")
    for text, number in zip(texts, found, strict=True):
        plain = text.strip()
        expected = float(plain) if NUMBER.fullmatch(plain) else None
        assert number == (None if expected in (float("inf"), -float("inf")) else expected)


def test_numbers_as_text() -> None:
    assert read(pa.array([1.0, 0.5, None]), "string") == ["1.0", "0.5", None]
    assert read(pa.array([1, None]), "string") == ["1", None]
    assert read(pa.array([True, False]), "string") == ["true", "false"]
    assert read(pa.array([[1]]), "string") == [None]


TIMES: dict[str, str | None] = {
    "2022-01-10 09:30:00": "2022-01-10 09:30:00",
    "2022-01-10T09:30:00": "2022-01-10 09:30:00",
    "2022-1-9 9:30": "2022-01-09 09:30:00",
    "2022-01-10 09:30:00.1234567": "2022-01-10 09:30:00.123456",
    "2022-01-10 09:30:00.5": "2022-01-10 09:30:00.500000",
    "2022-01-10 09:30:00 UTC": "2022-01-10 09:30:00",
    "2022-01-10T09:30:00Z": "2022-01-10 09:30:00",
    "01/10/2022 09:30:00 AM": "2022-01-10 09:30:00",
    "1/10/2022 9:30:00 pm": "2022-01-10 21:30:00",
    "1/10/2022 12:00:00 AM": "2022-01-10 00:00:00",
    "1/10/2022 12:00:00 PM": "2022-01-10 12:00:00",
    "1/10/2022 21:30:00": "2022-01-10 21:30:00",
    "1/10/2022 9:30": "2022-01-10 09:30:00",
    "20220110 09:30:00": "2022-01-10 09:30:00",
    "20220110T0930": "2022-01-10 09:30:00",
    "20220110093000": None,
    "20221310 09:30:00": None,
    "2022 Jan 10 09:30:00 PM": "2022-01-10 21:30:00",
    "2022 Dec 1 12:00:00 AM": "2022-12-01 00:00:00",
    "2022 Feb 29 01:00:00 AM": None,
    "2022 Jänner 10 09:30:00 PM": None,
    "2024-02-29 00:00:00": "2024-02-29 00:00:00",
    "0001-01-01 00:00:00": "0001-01-01 00:00:00",
    "9999-12-31 23:59:59": "9999-12-31 23:59:59",
    "0000-01-01 00:00:00": None,
    "2022-02-30 00:00:00": None,
    "2023-02-29 00:00:00": None,
    "2022-13-01 00:00:00": None,
    "2022-00-01 00:00:00": None,
    "2022-01-00 00:00:00": None,
    "2022-01-10 24:00:00": None,
    "2022-01-10 09:60:00": None,
    "2022-01-10 09:30:60": None,
    "13/10/2022 9:30": None,
    "1/10/2022 13:00:00 PM": None,
    "1/10/2022 0:00:00 AM": None,
    "1/10/22 9:30": None,
    "2022-01-10": None,
    "2022-01-10 09:30:00+00:00": "2022-01-10 09:30:00",
    "2022-01-10T09:30:00-05:00": "2022-01-10 09:30:00",
    "2022-01-10 09:30:00+0000": "2022-01-10 09:30:00",
    "2022-01-10 09:30:00+01:00": None,
    "2022-01-10 09:30:00 EST": None,
    "2022-01-10 9": None,
    "1641807000": None,
}


@pytest.mark.parametrize("text", TIMES)
def test_times_in_text(text: str) -> None:
    """Alone, and beside a text that is no time: another way is taken."""
    time = TIMES[text]
    for texts in ([text], [text, "yesterday"]):
        assert read(pa.array(texts), "timestamp")[0] == (at(time) if time else None)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.datetimes(), min_size=1, max_size=5), st.sampled_from(" T"))
def test_every_time_is_read_back_from_its_text(times: list[datetime], between: str) -> None:
    texts = [time.isoformat(between) for time in times]
    assert read(pa.array(texts), "timestamp") == times
    american = [f"{t:%m/%d/}{t.year:04d} {t.hour % 12 or 12}:{t:%M:%S %p}" for t in times]
    assert read(pa.array(american), "timestamp") == [t.replace(microsecond=0) for t in times]
    assert read(pa.array(times, pa.timestamp("us")), "timestamp") == times


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_every_unit(unit: str) -> None:
    pickup = at("2022-01-10 09:30:00")
    extremes = [2**63 - 1, -(2**63) + 1]
    array = pa.array([pickup, None]).cast(pa.timestamp(unit))
    assert read(array, "timestamp") == [pickup, None]
    extreme = read(pa.array(extremes, pa.int64()).cast(pa.timestamp(unit)), "timestamp")
    assert extreme == [None, None] or unit == "ns"
    zoned = pa.array(extremes, pa.int64()).cast(pa.timestamp(unit, "America/New_York"))
    assert len(read(zoned, "timestamp")) == 2


def test_the_first_and_the_last_time() -> None:
    micros = pa.array([FIRST, LAST]).cast(pa.int64())
    outside = pc.add(micros, pa.array([-1, 1]))
    times = pa.concat_arrays([micros, outside]).cast(pa.timestamp("us"))
    assert read(times, "timestamp") == [FIRST, LAST, None, None]
    # In New York the first hours of the year 1 lie in the year before it.
    assert read(micros.cast(pa.timestamp("us", "America/New_York")), "timestamp")[0] is None


def test_nanoseconds_go_to_the_microsecond_before() -> None:
    times = pa.array([1_999, -1, -1_000, -1_001], pa.int64()).cast(pa.timestamp("ns"))
    micros = [v if v is None else v.microsecond for v in read(times, "timestamp")]
    assert micros == [1, 999_999, 999_999, 999_998]


@pytest.mark.parametrize("zone", ["America/New_York", "US/Eastern", "EST5EDT", "-05:00"])
def test_a_zone_means_the_clock_on_its_walls(zone: str) -> None:
    utc = pa.array([datetime(2022, 1, 10, 14, 30, tzinfo=timezone.utc), None])
    zoned = utc.cast(pa.timestamp("us", zone))
    expected = [at("2022-01-10 09:30:00"), None]
    assert read(zoned, "timestamp") == expected
    assert read(zoned.dictionary_encode(), "timestamp") == expected
    assert read(utc.cast(pa.timestamp("ns", "UTC")), "timestamp") == [at("2022-01-10 14:30"), None]


def test_dates_are_their_midnights_and_numbers_are_no_times() -> None:
    day = date(2022, 1, 10)
    for kind in (pa.date32(), pa.date64()):
        assert read(pa.array([day, None], kind), "timestamp") == [at("2022-01-10"), None]
    far = pa.array([2**31 - 1, -(2**31)], pa.int32()).cast(pa.date32())
    assert read(far, "timestamp") == [None, None]
    assert read(pa.array([1_641_807_000_000]), "timestamp") == [None]
    assert read(pa.array([1], pa.time64("us")), "timestamp") == [None]
