"""The request contract: what is read, and every refusal with its message."""

from __future__ import annotations

import contextlib
import json
import math
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_steps import schemas
from databricks_steps.inference import request
from databricks_steps.inference.request import RequestError

wall = datetime.fromisoformat
GOOD = {
    "pickup_location_id": 74,
    "dropoff_location_id": 42,
    "trip_distance": 1.8,
    "pickup_datetime": "2022-03-15 08:30:00",
}


def records(**changes: Any) -> dict[str, Any]:
    """One good row before one row with some fields changed; `...` leaves a field out."""
    row = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    return {"dataframe_records": [GOOD, row]}


def split(columns: Any, data: Any, **more: Any) -> dict[str, Any]:
    return {"dataframe_split": {"columns": columns, "data": data, **more}}


LOCATION = "must be a whole number from 1 to 99999"
MILES = "must be a number above 0 and at most 100 (miles)"
PICKUP = "must be a New York wall-clock time as text, YYYY-MM-DD HH:MM:SS without an offset"
RANGE = "from 2009-01-01 until 2100-01-01"
NAMES, ROW = list(GOOD), list(GOOD.values())

REFUSED: list[tuple[Any, str]] = [
    (records(pickup_location_id="74"), f'Row 1: pickup_location_id {LOCATION}: "74"'),
    (records(pickup_location_id=True), f"Row 1: pickup_location_id {LOCATION}: true"),
    (records(pickup_location_id=None), f"Row 1: pickup_location_id {LOCATION}: null"),
    (records(pickup_location_id=0), f"Row 1: pickup_location_id {LOCATION}: 0"),
    (records(dropoff_location_id=-1), f"Row 1: dropoff_location_id {LOCATION}: -1"),
    (records(dropoff_location_id=100_000), f"Row 1: dropoff_location_id {LOCATION}: 100000"),
    (records(dropoff_location_id=74.5), f"Row 1: dropoff_location_id {LOCATION}: 74.5"),
    (records(dropoff_location_id=math.nan), f"Row 1: dropoff_location_id {LOCATION}: NaN"),
    (records(dropoff_location_id=10**30), f"Row 1: dropoff_location_id {LOCATION}: 1"),
    (records(dropoff_location_id=[74]), f"Row 1: dropoff_location_id {LOCATION}: [74]"),
    (records(trip_distance=math.nan), f"Row 1: trip_distance {MILES}: NaN"),
    (records(trip_distance=math.inf), f"Row 1: trip_distance {MILES}: Infinity"),
    (records(trip_distance=-math.inf), f"Row 1: trip_distance {MILES}: -Infinity"),
    (records(trip_distance="1.8"), f'Row 1: trip_distance {MILES}: "1.8"'),
    (records(trip_distance=False), f"Row 1: trip_distance {MILES}: false"),
    (records(trip_distance=None), f"Row 1: trip_distance {MILES}: null"),
    (records(trip_distance=0), f"Row 1: trip_distance {MILES}: 0"),
    (records(trip_distance=-0.0), f"Row 1: trip_distance {MILES}: -0.0"),
    (records(trip_distance=-2), f"Row 1: trip_distance {MILES}: -2"),
    (records(trip_distance=100.01), f"Row 1: trip_distance {MILES}: 100.01"),
    (records(trip_distance={}), f"Row 1: trip_distance {MILES}: {{}}"),
    (records(pickup_datetime=None), f"Row 1: pickup_datetime {PICKUP}, {RANGE}: null"),
    (records(pickup_datetime=1647333000), f"Row 1: pickup_datetime {PICKUP}, {RANGE}: 16473"),
    (records(pickup_datetime=""), f'Row 1: pickup_datetime {PICKUP}, {RANGE}: ""'),
    (records(pickup_datetime="2022-03-15"), f'{PICKUP}, {RANGE}: "2022-03-15"'),
    (records(pickup_datetime="2022-03-15 08:30"), f'{PICKUP}, {RANGE}: "2022-03-15 08:30"'),
    (records(pickup_datetime="2022-03-15 08:30:00Z"), "Row 1: pickup_datetime must be"),
    (records(pickup_datetime="2022-03-15T08:30:00-05:00"), "Row 1: pickup_datetime must be"),
    (records(pickup_datetime="2022-02-30 08:30:00"), "Row 1: pickup_datetime must be"),
    (records(pickup_datetime="2022-03-15 24:00:00"), "Row 1: pickup_datetime must be"),
    (records(pickup_datetime="2022-03-15 08:30:60"), "Row 1: pickup_datetime must be"),
    (records(pickup_datetime="2022-W11-2 08:30:00"), "Row 1: pickup_datetime must be"),
    (records(pickup_datetime="2022-3-15 08:30:00"), "Row 1: pickup_datetime must be"),
    (records(pickup_datetime=" 2022-03-15 08:30:00"), "Row 1: pickup_datetime must be"),
    (records(pickup_datetime="2022-03-15 08:30:00\n"), "Row 1: pickup_datetime must be"),
    (records(pickup_datetime="٢٠٢٢-03-15 08:30:00"), "Row 1: pickup_datetime must be"),
    (records(pickup_datetime="2008-12-31 23:59:59"), f'{RANGE}: "2008-12-31 23:59:59"'),
    (records(pickup_datetime="2100-01-01 00:00:00"), f'{RANGE}: "2100-01-01 00:00:00"'),
    (records(trip_distance=...), "Row 1: a field is missing: trip_distance"),
    (records(pickup_datetime=...), "Row 1: a field is missing: pickup_datetime"),
    (records(passenger_count=1), 'Row 1: unknown field: "passenger_count"'),
    (records(Trip_Distance=1), 'Row 1: unknown field: "Trip_Distance"'),
    (records(**{"": 1}), 'Row 1: unknown field: ""'),
    (
        records(pickup_mean_fare_24h=12.5),
        "Row 1: a looked-up feature may not be sent: pickup_mean_fare_24h. Remove it",
    ),
    (records(dropoff_net_flow_1h=1), "may not be sent: dropoff_net_flow_1h"),
    ({}, "must hold exactly one form of rows: []"),
    ([], "must be a JSON object: []"),
    (None, "must be a JSON object: null"),
    ("text", 'must be a JSON object: "text"'),
    ({"dataframe_records": []}, "dataframe_records must hold 1 to 10,000 rows: 0"),
    ({"dataframe_records": [GOOD] * 10_001}, "must hold 1 to 10,000 rows: 10001"),
    ({"dataframe_records": GOOD}, "dataframe_records must be a list of objects"),
    ({"dataframe_records": [GOOD, 5]}, "Row 1 of dataframe_records must be an object: 5"),
    ({"dataframe_records": [{}]}, "Row 0: a field is missing: pickup_location_id"),
    ({"instances": [[74, 42, 1.8]]}, "Row 0 of instances must be an object: [74, 42, 1.8]"),
    ({"instances": [GOOD], "inputs": [GOOD]}, 'exactly one form of rows: ["instances", "inputs"]'),
    ({"inputs": "x"}, "inputs must be a list of objects"),
    ({"inputs": {"trip_distance": 1.8}}, 'inputs: "trip_distance" must be a list: 1.8'),
    ({"inputs": {name: [] for name in GOOD}}, "inputs must hold 1 to 10,000 rows: 0"),
    (
        {"inputs": {**{name: [value] for name, value in GOOD.items()}, "fare_amount": [1, 2]}},
        "inputs: all columns must be equally long",
    ),
    ({"dataframe_split": []}, "dataframe_split must hold columns and data"),
    ({"dataframe_split": {"columns": NAMES}}, "dataframe_split must hold columns and data"),
    (split("abc", [ROW]), "columns of dataframe_split must be a list of names"),
    (split([1, 2], [ROW]), "columns of dataframe_split must be a list of names"),
    (split([*NAMES, NAMES[0]], [[*ROW, 1]]), "columns of dataframe_split must be unique"),
    (split(NAMES, "x"), "data of dataframe_split must be a list of rows"),
    (split(NAMES, [ROW, ROW[:3]]), "Row 1 of dataframe_split must be a list of 4 values"),
    (split(NAMES, [ROW], index=[1, 2]), "index of dataframe_split must be as long as data"),
    (split(NAMES, [ROW], more=1), "dataframe_split must hold columns and data"),
    (split(NAMES[:3], [ROW[:3]]), "Row 0: a field is missing: pickup_datetime"),
    ({**records(), "model": "x"}, 'Unknown key beside the rows: "model"'),
    ({**records(), "params": [1]}, "params must be an object: [1]"),
    ({**records(), "client_request_id": 5}, "client_request_id must be a printable text"),
    ({**records(), "client_request_id": "x" * 257}, "client_request_id must be a printable text"),
    ({**records(), "client_request_id": "\ud800"}, "client_request_id must be a printable text"),
]


@pytest.mark.parametrize(("payload", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_refusals_name_field_row_value_and_range(payload: Any, message: str) -> None:
    with pytest.raises(RequestError) as error:
        request.parse(json.dumps(payload).encode())
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.code in ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nan", b"\xff", b"[" * 5_000, b'{"a":1}{"a":1}', b"9" * 5_000]
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError) as error:
        request.parse(body)
    assert error.value.code == "BAD_REQUEST"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_another_encoding_than_utf_8_is_refused(encoding: str) -> None:
    """Its capture could not be read again."""
    with pytest.raises(RequestError) as error:
        request.parse(json.dumps({"instances": [GOOD]}).encode(encoding))
    assert error.value.code == "BAD_REQUEST"


def test_nothing_as_parameters_is_as_none_at_all() -> None:
    whole = {"instances": [GOOD], "params": None, "extra_params": None, "client_request_id": None}
    assert not request.read(whole).interval


@pytest.mark.parametrize(
    ("given", "kept"), [("order-7", "order-7"), ("a\nb", None), (7, None), ("x" * 257, None)]
)
def test_what_is_refused_keeps_its_sender_s_id(given: object, kept: str | None) -> None:
    for bad in ({"instances": [{**GOOD, "trip_distance": -1}]}, {"inputs": []}, {"unknown": 1}):
        with pytest.raises(RequestError) as error:
            request.read({**bad, "client_request_id": given})
        assert error.value.client_request_id == kept


def test_rows_become_columns() -> None:
    sunday = {
        "pickup_location_id": 10_001.0,
        "dropoff_location_id": 99_999,
        "trip_distance": 100,
        "pickup_datetime": "2009-01-04T00:00:00.999999",
    }
    body = {"dataframe_records": [GOOD, sunday], "client_request_id": "mine"}
    parsed = request.parse(json.dumps(body).encode())
    assert parsed.pickup_location_id.tolist() == [74, 10_001]
    assert parsed.dropoff_location_id.tolist() == [42, 99_999]
    assert parsed.pickup_datetime == (wall("2022-03-15 08:30:00"), wall("2009-01-04"))
    assert {name: values.tolist() for name, values in parsed.features().items()} == {
        "trip_distance": [1.8, 100.0],
        "pickup_hour": [8, 0],
        "pickup_weekday": [1, 6],
        "pickup_is_weekend": [0, 1],
        "pickup_is_airport": [0, 0],
        "dropoff_is_airport": [0, 0],
        "pickup_location_id": [74, 10_001],
        "dropoff_location_id": [42, 99_999],
        "trip_type": [0, 0],
    }
    assert tuple(parsed.features()) == tuple(c.name for c in schemas.REQUEST_FEATURES)
    assert parsed.pickup_location_id.dtype == np.int64
    assert (len(parsed), parsed.client_request_id) == (2, "mine")


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{**GOOD, "trip_type": 2}, GOOD, {**GOOD, "trip_type": None}]},
        {
            "dataframe_split": {
                "columns": ["trip_type", *GOOD],
                "data": [[kind, *GOOD.values()] for kind in (2.0, None, 0)],
            }
        },
        {"inputs": {name: [value] * 3 for name, value in GOOD.items()} | {"trip_type": [2, 0, 0]}},
    ],
)
def test_a_trip_type_may_be_told_and_is_unknown_where_it_is_not(body: dict[str, Any]) -> None:
    assert request.read(body).features()["trip_type"].tolist() == [2, 0, 0]


@pytest.mark.parametrize("kind", [3, -1, "2", True, 1.5, math.nan])
def test_a_trip_type_that_is_none_is_refused(kind: object) -> None:
    with pytest.raises(request.RequestError, match=r"Row 0: trip_type must be 1 \(street hail\)"):
        request.read({"dataframe_records": [{**GOOD, "trip_type": kind}]})


def test_an_airport_is_one_by_its_zone_or_zip_code() -> None:
    ends = {"pickup_location_id": 132, "dropoff_location_id": 7114}
    found = request.read({"dataframe_records": [{**GOOD, **ends}]}).features()
    assert (found["pickup_is_airport"].tolist(), found["dropoff_is_airport"].tolist()) == ([1], [1])


@pytest.mark.parametrize("name", sorted(request.IGNORED))
def test_what_is_known_after_the_ride_changes_nothing(name: str) -> None:
    plain = request.read({"dataframe_records": [GOOD]})
    for value in (1.0, None, "x", math.nan, {"deep": [1]}):
        given_too = request.parse(
            json.dumps({"dataframe_records": [{**GOOD, name: value}]}).encode()
        )
        assert given_too.features() == plain.features()
        assert given_too.pickup_location_id == plain.pickup_location_id


def test_ignored_fields_are_the_label_and_what_comes_with_it() -> None:
    assert {"fare_amount", "tip_amount", "total_amount", "dropoff_datetime"} <= request.IGNORED
    assert request.IGNORED.isdisjoint(request.FIELDS)
    assert request.IGNORED.isdisjoint(request.LOOKED_UP)
    assert {
        c.name for c in schemas.MODEL_INPUTS[len(schemas.REQUEST_FEATURES) :]
    } == request.LOOKED_UP


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FORM = st.sampled_from(request.FORMS)


@given(JSON, FORM, st.sampled_from(NAMES))
def test_any_value_anywhere_is_read_or_refused(value: Any, form: str, name: str) -> None:
    for payload in (value, {form: value}, {form: [value]}, {form: [{**GOOD, name: value}]}):
        with contextlib.suppress(RequestError):
            assert len(request.parse(json.dumps(payload).encode())) == 1


@given(st.datetimes(wall("2009-01-01"), wall("2099-12-31")))
def test_every_time_in_range_is_read_as_written(at: datetime) -> None:
    for text in (at.isoformat(), at.isoformat(" "), f"{at:%Y-%m-%d %H:%M:%S}"):
        parsed = request.read({"inputs": [{**GOOD, "pickup_datetime": text}]})
        assert parsed.pickup_datetime == (at.replace(microsecond=0),)


TEXTS = st.one_of(
    st.datetimes(wall("2008-12-31"), wall("2100-01-02")).map(
        lambda at: at.strftime("%Y-%m-%d %H:%M:%S")
    ),
    st.from_regex(r"\d{4}-[01]\d-[0-3]\d[ T][0-2]\d:[0-6]\d:[0-6]\d", fullmatch=True),
)
VALUES = {
    "_LOCATIONS": st.one_of(st.integers(0, 100_001), st.integers(), st.floats(), st.booleans()),
    "_DISTANCES": st.one_of(st.floats(0, 101), st.integers(), st.floats(), st.none()),
    "_TRIP_TYPES": st.one_of(st.none(), st.integers(0, 3), st.floats()),
    "_TIMES": st.one_of(TEXTS, st.text(min_size=19, max_size=19), st.none()),
}


@pytest.mark.parametrize("name", VALUES)
@given(data=st.data())
def test_many_values_read_at_once_are_those_read_one_by_one(name: str, data: Any) -> None:
    field = getattr(request, name)
    values = data.draw(st.lists(VALUES[name], min_size=1, max_size=5))
    one_by_one = [field.of_one(value) for value in values]
    with contextlib.suppress(OverflowError):
        at_once = field.of_many(values)
        assert at_once is None or at_once.tolist() == one_by_one


@pytest.mark.parametrize("name", ["_LOCATIONS", "_DISTANCES", "_TIMES"])
@given(data=st.data())
def test_good_values_are_read_at_once(name: str, data: Any) -> None:
    good = {
        "_LOCATIONS": st.integers(1, 99_999),
        "_DISTANCES": st.one_of(st.floats(0.01, 100), st.integers(1, 100)),
        "_TIMES": st.datetimes(wall("2009-01-01"), wall("2099-12-31 23:59:59")).map(
            lambda at: f"{at:%Y-%m-%d}{data.draw(st.sampled_from(' T'))}{at:%H:%M:%S}"
        ),
    }
    values = data.draw(st.lists(good[name], min_size=1, max_size=5))
    field = getattr(request, name)
    assert field.of_many(values).tolist() == [field.of_one(value) for value in values]


RIDES = st.tuples(
    *(st.integers(1, 266), st.integers(1, 266), st.floats(0.01, 100), TEXTS, st.integers(0, 2))
)


@given(RIDES)
def test_the_only_row_is_that_of_the_features(ride: tuple[Any, ...]) -> None:
    row = dict(zip((*GOOD, "trip_type"), ride, strict=True))
    with contextlib.suppress(RequestError):
        asked = request.read({"dataframe_records": [row]})
        assert asked.only_row() == [value.item() for value in asked.features().values()]


def test_a_bad_row_among_many_is_named() -> None:
    rows = [GOOD] * 20 + [{**GOOD, "pickup_location_id": True}] + [GOOD] * 5
    with pytest.raises(RequestError, match="Row 20: pickup_location_id must be a whole number"):
        request.read({"dataframe_records": rows})
