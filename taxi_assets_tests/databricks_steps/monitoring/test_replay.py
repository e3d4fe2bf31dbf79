"""Replay on real captured requests: nothing differs on the same version, much on another."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from databricks_steps.errors import ModelError, ServingError, SettingsError
from databricks_steps.monitoring import payloads, replay
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from taxi_assets import cli
from taxi_assets.deployment import endpoint
from taxi_assets.emulator.runtime import capture
from taxi_assets_tests.databricks_steps.monitoring import payload_tables
from taxi_assets_tests.taxi_assets.emulator.clients import Clients
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import TRIP, Workspace, serve

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow  # a served model


# Of the published locations 41 and 42; 263 has no row, and in May every row is too old.
LOCATIONS = (41, 42, 74, 75, 132, 166, 244, 263)
SINGLE = int(os.environ.get("TAXI_REPLAY_REQUESTS", "300"))
LONG_AGO = datetime(2020, 1, 1, tzinfo=timezone.utc)
LATER = datetime(2100, 1, 1, tzinfo=timezone.utc)


def trip(number: int) -> dict[str, Any]:
    chosen = random.Random(number)
    day = f"2022-{'05' if number % 10 == 0 else '02'}-{chosen.randint(1, 8):02}"
    return {
        "pickup_location_id": chosen.choice(LOCATIONS),
        "dropoff_location_id": chosen.choice(LOCATIONS),
        "trip_distance": round(chosen.uniform(0.1, 60), 2),
        "pickup_datetime": f"{day} 08:{chosen.randint(0, 59):02}:10",
    }


def asked(number: int) -> dict[str, Any]:
    return {"dataframe_records": [trip(number)], "client_request_id": f"trip-{number}"}


@pytest.fixture(scope="module")
def busy(start: Callable[[], Workspace]) -> Workspace:
    """A workspace that has answered requests of one trip and of many, and refused one."""
    workspace = start()
    serve(workspace)
    with Clients(workspace.settings, 8, asked) as clients:
        clients.await_answers(SINGLE)
    many = {"inputs": {name: [trip(n)[name] for n in range(40)] for name in TRIP}}
    ranges = {"dataframe_records": [trip(3)], "params": {"interval": False, "features": True}}
    for payload in (many, ranges):
        endpoint.answer(workspace.client, workspace.settings, payload)
    with pytest.raises(ServingError):
        endpoint.answer(workspace.client, workspace.settings, {"instances": []})
    workspace.client.api_client.do("POST", "/api/2.0/taxi/payloads/flush")
    return workspace


@pytest.fixture
def platform(busy: Workspace, spark: SparkSession) -> EmbeddedPlatform:
    return EmbeddedPlatform(busy.settings, lambda: spark)


def test_the_same_version_gives_the_same_fares(platform: EmbeddedPlatform) -> None:
    found = replay.replay(platform, "1", LONG_AGO, LATER)
    assert found.requests >= SINGLE + 2
    assert found.trips == found.requests + 39
    assert (found.different, found.largest, found.mean) == (0, 0.0, 0.0)
    assert found.quantiles == {"p50": 0.0, "p90": 0.0, "p99": 0.0}
    assert (found.worst, found.looked_up_now) == ((), 0)
    assert found.answered_by == {"1": found.trips}
    assert found.skipped == {"answered with an error": 1}


def test_another_version_gives_others_and_the_worst_are_named(
    busy: Workspace, platform: EmbeddedPlatform
) -> None:
    found = replay.replay(platform, "2", LONG_AGO, LATER)
    assert found.different > found.trips * 0.9
    sizes = [abs(each.dollars) for each in found.worst]
    assert sizes == sorted(sizes, reverse=True)
    assert (len(sizes), sizes[0]) == (10, found.largest)
    assert found.quantiles["p50"] <= found.quantiles["p90"] <= found.largest
    worst = next(each for each in found.worst if each.client_request_id)
    number = int((worst.client_request_id or "").split("-")[1])
    answer = endpoint.query(busy.client, busy.settings, asked(number))
    assert worst.answered == answer[0]
    told = found.to_json()["worst"][0]
    assert told["difference"] == told["replayed"] - told["answered"]
    json.dumps(found.to_json())


def test_captured_requests_are_payloads_with_their_version(platform: EmbeddedPlatform) -> None:
    (outcome,) = payloads.endpoint_payloads(platform, None)
    (verdict,) = outcome.verdicts
    assert verdict.passed, verdict.reason
    rows = platform.tables.read("endpoint_payloads")
    counted = {
        (row["status_code"], row["model_version"]): row["count"]
        for row in rows.groupBy("status_code", "model_version").count().collect()
    }
    assert counted == {(200, "1"): outcome.rows - 1, (400, None): 1}
    assert rows.where("problem IS NULL AND predicted_fare IS NULL").count() == 0
    assert payloads.endpoint_payloads(platform, None)[0].commit is None


def test_only_the_requests_of_the_time_are_replayed(platform: EmbeddedPlatform) -> None:
    whole = replay.replay(platform, "1", LONG_AGO, LATER)
    times = platform.tables.foreign(platform.settings.payload_table)
    assert times is not None
    middle = times.selectExpr("percentile(unix_micros(request_time), 0.5) AS at").collect()[0]["at"]
    instant = datetime.fromtimestamp(0, timezone.utc) + timedelta(microseconds=int(middle))
    halves = [
        replay.replay(platform, "1", LONG_AGO, instant),
        replay.replay(platform, "1", instant, LATER),
    ]
    assert sum(half.requests for half in halves) == whole.requests
    assert min(half.requests for half in halves) > whole.requests / 3


def test_the_command_tells_and_gives_json(
    busy: Workspace, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAXI_HOME", str(busy.settings.home))
    monkeypatch.setenv("TAXI_PORT", str(busy.settings.port))
    endpoint.query(busy.client, busy.settings, asked(1))  # not in the table yet
    done = CliRunner().invoke(cli.main, ["replay", "--hours", "1", "--version", "1"])
    assert done.exit_code == 0, done.output
    assert "\n0 differences of more than 0.0001 dollars\n" in done.output
    assert "1 requests left out: answered with an error" in done.output
    again = CliRunner().invoke(cli.main, ["replay", "--version", "2", "--json"])
    told = json.loads(again.stdout)
    assert (told["version"], len(told["worst"])) == ("2", 10)
    for number in ("9", "01", "9" * 20):
        unknown = CliRunner().invoke(cli.main, ["replay", "--version", number])
        assert unknown.exit_code == 1
        assert unknown.stderr.startswith("error: A version must be registered: ")
        assert unknown.stderr.endswith(f" has no version '{number}'. There are: 1, 2\n")


def test_what_cannot_be_replayed_is_said(busy: Workspace, platform: EmbeddedPlatform) -> None:
    with pytest.raises(ModelError, match="has no version '9'. There are: 1, 2"):
        replay.replay(platform, "9", LONG_AGO, LATER)
    with pytest.raises(ServingError, match="none from 2020-01-01 00:00:00.*holds [0-9]+, from"):
        replay.replay(platform, "1", LONG_AGO, LONG_AGO + timedelta(hours=1))
    off = platform.with_settings(replace(busy.settings, payload_prefix="nowhere"))
    with pytest.raises(ServingError, match="there is no table p03.e2e_demo_simon.nowhere_payload"):
        replay.replay(off, "1", LONG_AGO, LATER)


def test_features_that_were_not_captured_are_looked_up_now(
    busy: Workspace, platform: EmbeddedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(busy.settings, payload_prefix="gateway")
    later = {**TRIP, "pickup_datetime": "2022-05-01 00:00:00"}
    rows = {"dataframe_records": [TRIP, {**later, "trip_type": 2}]}
    fares = endpoint.answer(busy.client, busy.settings, rows)["predictions"]
    good = payload_tables.request("good", request=json.dumps(rows))
    unread = payload_tables.request("bad", request="{")
    answered = json.dumps({"predictions": fares})
    payload_tables.gateway(settings, [{**good, "response": answered}, unread, unread])
    found = replay.replay(platform.with_settings(settings), "1", LONG_AGO, LATER)
    # The newest rows were known before the pickups: online and as of then are the same.
    assert (found.trips, found.looked_up_now, found.different) == (2, 2, 0)
    assert found.answered_by == {"unknown": 2}
    assert found.skipped == {"cannot be read": 1}
    only = replace(busy.settings, payload_prefix="unread")
    payload_tables.gateway(only, [unread])
    with pytest.raises(ServingError, match="answered and can be read: 1 cannot be read"):
        replay.replay(platform.with_settings(only), "1", LONG_AGO, LATER)


NOW = datetime(2026, 11, 25, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("24:0", 24, 0),
        ("24", 24, 0),
        ("1.5:0.5", 1.5, 0.5),
        ("2026-11-25T08:00/2026-11-25T09:30Z", 4, 2.5),
        ("2026-11-25 09:00:00+01:00 / 2026-11-25T09:30", 4, 2.5),
    ],
)
def test_a_time_is_hours_ago_or_two_instants(text: str, first: float, last: float) -> None:
    expected = tuple(NOW - timedelta(hours=hours) for hours in (first, last))
    assert replay.between(text, NOW) == expected


OTHERS = ("0:24", "1:1", "", "a:b", "nan", "inf", "2026/2025", "1/2/3")


@pytest.mark.parametrize("text", [*OTHERS, "0001-01-01/9999-12-31T23:59:59-14:00"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="must be hours ago, A:B with A before B"):
        replay.between(text, NOW)


def test_capture_writes_which_version_an_entity_is(busy: Workspace, settings: Settings) -> None:
    from deltalake import DeltaTable

    table = DeltaTable(str(busy.settings.table_path("system.serving.served_entities")))
    (row,) = table.to_pyarrow_table().to_pylist()
    assert (row["entity_name"], row["entity_version"]) == (busy.settings.registered_model, "1")
    assert (row["endpoint_name"], row["endpoint_config_version"]) == (busy.settings.endpoint, 1)
    capture.flush(busy.settings)
    assert table.version() == 0
    assert not settings.table_path("system.serving.served_entities").exists()
