"""Captured requests as rows of `endpoint_payloads`: both shapes, every form, each exactly once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from databricks_steps import schemas
from databricks_steps.inference import request as contract
from databricks_steps.interfaces import Outcome
from databricks_steps.monitoring import inference_table, payloads
from databricks_steps.monitoring.payloads import endpoint_payloads
from databricks_steps.platforms.embedded import delta_files
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from taxi_assets_tests.databricks_steps.monitoring.payload_tables import (
    NOVEMBER,
    TRIP,
    entities,
    gateway,
    legacy,
    request,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OCTOBER = datetime(2026, 10, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc)
Write = Callable[[Settings, list[dict[str, Any]]], None]


@pytest.fixture
def platform(settings: Settings, spark: SparkSession) -> EmbeddedPlatform:
    return EmbeddedPlatform(settings, lambda: spark)


def step(platform: EmbeddedPlatform, months: list[str] | None = None, **how: bool) -> Outcome:
    (outcome,) = endpoint_payloads(platform, months, **how)
    assert outcome.name == "endpoint_payloads"
    return outcome


def rows(platform: EmbeddedPlatform, *columns: str) -> list[tuple[Any, ...]]:
    names = columns or schemas.ENDPOINT_PAYLOADS.names
    found = platform.tables.read("endpoint_payloads").orderBy("requested_at", "request_id")
    return [
        tuple(row) for row in found.orderBy("request_id", "request_row").select(*names).collect()
    ]


def told(outcome: Outcome) -> tuple[bool, str]:
    (verdict,) = outcome.verdicts
    assert (verdict.check, verdict.severity) == ("readable", "warn")
    return verdict.passed, verdict.reason


@pytest.mark.parametrize("captured", [None, [], [request("a", client_id=contract.OWN + "1")]])
def test_without_requests_of_others_there_is_nothing_to_do(
    platform: EmbeddedPlatform, captured: list[dict[str, Any]] | None
) -> None:
    asked = []

    def engine() -> SparkSession:
        asked.append(captured)
        return platform.spark

    step(platform)  # as the first run does, before its own requests are captured
    if captured is not None:
        gateway(platform.settings, captured)
    assert step(EmbeddedPlatform(platform.settings, engine)).rows == 0
    assert asked == []
    for months in (None, ["2026-11"], []):
        outcome = step(platform, months)
        assert (outcome.rows, outcome.commit) == (0, None)
        assert told(outcome) == (True, "all 0 requests that were answered can be read")
    assert outcome.figures["payload_table"].startswith("no requests in p03.")
    assert not platform.tables.exists("endpoint_payloads")


@pytest.mark.parametrize(
    ("write", "entity", "version"), [(gateway, "entity-1", "3"), (legacy, "fares", "7")]
)
def test_both_shapes_give_the_same_rows(
    platform: EmbeddedPlatform, write: Write, entity: str, version: str
) -> None:
    at = datetime(2026, 11, 25, 3, 20, 30, 250_000)
    write(platform.settings, [request("a", 2, client_id="mine")])
    entities(platform.settings, {"entity-1": "3"})
    outcome = step(platform)
    pickup = datetime(2022, 2, 1, 8, 30)
    assert rows(platform) == [
        (
            *("a", place, "mine", "client", at, 200, 12.0, entity, version),
            *(74, 42, 1.0 + place, pickup, 10.0 + place, None, "2026-11"),
        )
        for place in (0, 1)
    ]
    assert outcome.rows == 2
    assert outcome.figures["requests"] == 1
    assert told(outcome) == (True, "all 1 requests that were answered can be read")


def test_own_requests_are_told_from_clients_and_are_not_kept(
    platform: EmbeddedPlatform,
) -> None:
    asked = [
        request("a", client_id="mine"),
        request("b", client_id="taxi-assets-check-parity"),
        request("c", client_id=None),
        request("d", client_id="not taxi-assets-check"),
    ]
    gateway(platform.settings, asked)
    step(platform)
    origins = dict(rows(platform, "request_id", "origin"))
    assert origins == {"a": "client", "c": "client", "d": "client"}


def test_requests_are_counted_and_drawn_by_the_hour(platform: EmbeddedPlatform) -> None:
    assert step(platform).pictures == {"": {}}
    at = datetime(2026, 11, 25, 3, 59, 59, tzinfo=timezone.utc)
    later = at + timedelta(seconds=1)
    asked = [request("a", 2, at=at), request("b", at=at), request("c", at=later)]
    gateway(platform.settings, asked)
    (svg,) = step(platform).pictures[""].values()
    assert ("25 03:00" in svg, "25 04:00" in svg, "25 05:00" in svg) == (True, True, False)
    found = payloads.by_hour(platform.tables.read("endpoint_payloads"))
    assert found == [("25 03:00", 2, 12.0, 12.0), ("25 04:00", 1, 12.0, 12.0)]


FORMS = {
    "dataframe_records": [TRIP],
    "instances": [TRIP],
    "inputs": {name: [value] for name, value in TRIP.items()},
    "dataframe_split": {"columns": list(TRIP), "data": [list(TRIP.values())]},
}


def test_every_form_of_a_request_and_of_an_answer_is_read(platform: EmbeddedPlatform) -> None:
    asked = [
        request(form, request=json.dumps({form: trips}), response='{"predictions": [9.5]}')
        for form, trips in FORMS.items()
    ]
    interval = '{"predictions": [{"fare": 8.5, "low": 7.0, "high": 9.0}]}'
    gateway(platform.settings, [*asked, request("with interval", response=interval)])
    step(platform)
    found = rows(platform, "request_id", "trip_distance", "predicted_fare", "problem")
    assert found == sorted(
        [(form, 1.8, 9.5, None) for form in FORMS] + [("with interval", 1.0, 8.5, None)]
    )


UNREADABLE = {
    "1 no json": ({"request": "{"}, None, "the request cannot be read: Expecting property"),
    "2 no trips": ({"request": "{}"}, None, "the request cannot be read: The body must hold"),
    "3 too large": (
        {"request": None, "codes": ["MAX_REQUEST_SIZE_EXCEEDED"]},
        None,
        "the request was not kept: MAX_REQUEST_SIZE_EXCEEDED",
    ),
    "4 cut": ({"response": '{"predictions": [1'}, 74, "the answer cannot be read: Expecting"),
    "5 short": ({"response": '{"predictions": []}'}, 74, "0 predictions for 1 trips"),
    "6 null": ({"response": '{"predictions": [null]}'}, 74, "prediction 0 is null"),
    "7 not kept": (
        {"response": None, "codes": ["MAX_RESPONSE_SIZE_EXCEEDED"]},
        74,
        "the answer cannot be read: MAX_RESPONSE_SIZE_EXCEEDED",
    ),
}


def test_what_cannot_be_read_stays_as_a_row_that_says_why(platform: EmbeddedPlatform) -> None:
    asked = [request(name, **changes) for name, (changes, _, _) in UNREADABLE.items()]
    refused = '{"error_code": "BAD_REQUEST", "message": "Row 0: half \\ud83d a smile"}'
    asked += [
        request("8 refused", status=400, request="{", response=refused, entity=None),
        request("9 busy", status=429, response=""),
        request("good", 3),
    ]
    gateway(platform.settings, asked)
    outcome = step(platform)
    found = rows(platform, "request_id", "pickup_location_id", "predicted_fare", "problem")
    assert len(found) == 12
    for (name, (_, pickup, problem)), row in zip(UNREADABLE.items(), found, strict=False):
        assert row[:3] == (name, pickup, None)
        assert problem in row[3]
    assert found[7:9] == [
        ("8 refused", None, None, "answered 400: Row 0: half ? a smile"),
        ("9 busy", 74, None, "answered 429: nothing"),
    ]
    passed, reason = told(outcome)
    assert not passed
    assert reason.startswith(
        "7 of 8 requests that were answered cannot be read, for example 1 no json: "
        "the request cannot be read: Expecting property"
    )


def test_new_requests_are_added_and_a_second_run_adds_nothing(platform: EmbeddedPlatform) -> None:
    gateway(platform.settings, [request("b"), request("old", at=OCTOBER)])
    first = step(platform)
    assert first.commit is not None
    assert (first.commit.rows, first.rows) == (2, 2)
    version = platform.tables.version("endpoint_payloads")
    again = step(platform)
    assert (again.commit, again.rows) == (None, 2)
    assert again.figures["skipped_months"] == ["2026-10", "2026-11"]
    forced = step(platform, force=True)
    assert forced.commit is not None
    assert (forced.commit.action, forced.commit.rows) == ("unchanged", 0)
    assert platform.tables.version("endpoint_payloads") == version
    gateway(platform.settings, [request("a"), request("c", 2)])
    grown = step(platform)
    assert grown.commit is not None
    assert (grown.commit.rows, grown.rows) == (3, 5)
    assert grown.figures["skipped_months"] == ["2026-10"]
    assert [row[0] for row in rows(platform, "request_id")] == ["a", "b", "c", "c", "old"]


def test_of_a_month_that_has_grown_only_what_is_new_is_read(
    platform: EmbeddedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway(platform.settings, [request("a")])
    step(platform)
    gateway(platform.settings, [request("b")])
    delivered = inference_table.requests(platform)
    assert delivered is not None
    new = payloads._unread(platform, delivered, {}, ["2026-11"])
    assert [row["request_id"] for row in new.collect()] == ["b"]
    # Delivered late: it was asked before one that is known.
    gateway(platform.settings, [request("late", at=NOVEMBER - timedelta(seconds=1))])
    delivered = inference_table.requests(platform)
    assert delivered is not None
    new = payloads._unread(platform, delivered, {}, ["2026-11"])
    assert sorted(row["request_id"] for row in new.collect()) == ["b", "late"]
    monkeypatch.setattr(payloads.fingerprint, "code", lambda *_: "other code")
    assert payloads._unread(platform, delivered, {}, ["2026-11"]).count() == 3


def test_only_the_months_asked_for_are_read(platform: EmbeddedPlatform) -> None:
    gateway(platform.settings, [request("new", request="{"), request("old", at=OCTOBER)])
    outcome = step(platform, ["2026-10"])
    assert outcome.figures["months"] == ["2026-10"]
    assert rows(platform, "request_id", "request_month") == [("old", "2026-10")]
    assert told(outcome)[0]
    assert step(platform).rows == 2
    assert not told(step(platform))[0]  # of all months the newest is judged
    assert told(step(platform, ["2026-10"]))[0]


def test_a_request_that_is_delivered_twice_is_one(platform: EmbeddedPlatform) -> None:
    later = NOVEMBER + timedelta(seconds=1)
    gateway(platform.settings, [request("a", 2), request("b"), request("a", 2)])
    gateway(platform.settings, [request("b", at=later, response='{"predictions": [99]}')])
    assert step(platform).rows == 3
    assert rows(platform, "request_id", "predicted_fare") == [("a", 10.0), ("a", 11.0), ("b", 10.0)]
    gateway(platform.settings, [request("a", 2)])  # and again when it is known
    outcome = step(platform)
    assert outcome.commit is not None
    assert (outcome.commit.action, outcome.rows) == ("unchanged", 3)
    assert step(platform).commit is None


def test_requests_without_an_id_are_all_kept(platform: EmbeddedPlatform) -> None:
    later = NOVEMBER + timedelta(microseconds=1)
    gateway(platform.settings, [request("a", id=None), request("b", id=None, at=later)])
    assert step(platform).rows == 2
    assert [row[0] for row in rows(platform, "request_id")] == [
        "none-1795576830250000",
        "none-1795576830250001",
    ]


def test_versions_are_told_when_they_become_known(platform: EmbeddedPlatform) -> None:
    asked = [request("a"), request("b", entity="entity-2"), request("c", entity=None)]
    gateway(platform.settings, asked)
    step(platform)
    versions = [("a", None), ("b", None), ("c", None)]
    assert rows(platform, "request_id", "model_version") == versions
    entities(platform.settings, {"entity-1": "1"})
    entities(platform.settings, {"entity-2": "5"}, model="p03.other.model")
    outcome = step(platform)
    assert outcome.commit is not None
    assert (outcome.commit.action, outcome.commit.rows) == ("merged", 1)
    assert rows(platform, "request_id", "model_version") == [("a", "1"), *versions[1:]]


def test_what_the_payload_table_no_longer_keeps_stays(platform: EmbeddedPlatform) -> None:
    from deltalake import DeltaTable

    gateway(platform.settings, [request("a"), request("b")])
    step(platform)
    kept = DeltaTable(str(platform.settings.table_path(platform.settings.payload_table)))
    kept.delete("databricks_request_id = 'a'")
    gateway(platform.settings, [request("c")])
    assert step(platform).rows == 3
    assert [row[0] for row in rows(platform, "request_id")] == ["a", "b", "c"]


def test_a_run_that_died_before_its_commit_is_run_again(
    platform: EmbeddedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway(platform.settings, [request("a")])
    step(platform)
    gateway(platform.settings, [request("b"), request("c")])

    def dies(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(delta_files, "merge_changes", dies)
        with pytest.raises(KeyboardInterrupt):
            step(platform)
    assert rows(platform, "request_id") == [("a",)]
    assert step(platform).rows == 3
    assert step(platform).commit is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*FORMS, *TRIP, "columns", "data", "predictions", "fare", "message"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.sampled_from([200, 400, 503]),
    st.none() | st.text(max_size=20) | json_values.map(json.dumps),
    st.none() | st.text(max_size=20) | json_values.map(json.dumps),
)
@example(200, json.dumps({"instances": [TRIP]}), '{"predictions": [1' + 400 * "0" + "]}")
@example(200, "[" * 100_000, "[" * 100_000)
def test_whatever_was_captured_gives_rows(
    status: int, request: str | None, response: str | None
) -> None:
    read = inference_table.read(status, request, response, None)
    assert len(read.fares) == (1 if read.asked is None else len(read.asked))
    assert (read.problem is None) == all(fare is not None for fare in read.fares)
    (read.problem or "").encode()
