"""Payload capture: the rows in the table, once each, through stops and crashes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from databricks.sdk.errors import BadRequest
from databricks.sdk.service.serving import EndpointStateReady
from deltalake import DeltaTable

from databricks_steps.settings import Settings
from taxi_assets.deployment import endpoint
from taxi_assets.emulator import process
from taxi_assets.emulator.runtime import capture, state
from taxi_assets.emulator.runtime.state import State
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import TRIP, Workspace, kill, serve

COLUMNS = [
    "databricks_request_id",
    "client_request_id",
    "request_date",
    "request_time",
    "status_code",
    "sampling_fraction",
    "execution_duration_ms",
    "request",
    "response",
    "served_entity_id",
    "logging_error_codes",
    "requester",
    "looked_up_features",
]


def query(workspace: Workspace, name: str) -> float:
    body = {"dataframe_records": [TRIP], "client_request_id": name}
    return endpoint.query(workspace.client, workspace.settings, body)[0]


def captured(settings: Settings) -> list[dict[str, Any]]:
    table = DeltaTable(str(settings.table_path(settings.payload_table))).to_pyarrow_table()
    return list(table.sort_by("request_time").to_pylist())


def test_a_flush_writes_what_was_asked_and_answered(served: Workspace) -> None:
    fare = query(served, "good")
    path = f"/serving-endpoints/{served.settings.endpoint}/invocations"
    with pytest.raises(BadRequest):
        served.client.api_client.do("POST", path, body={"client_request_id": "bad"})
    flushed = served.client.api_client.do("POST", "/api/2.0/taxi/payloads/flush")
    assert flushed == {"payloads": 2}
    good, bad = captured(served.settings)
    assert list(good) == COLUMNS
    assert json.loads(good["request"])["dataframe_records"] == [TRIP]
    assert json.loads(good["response"]) == {"predictions": [fare]}
    assert (good["status_code"], good["client_request_id"]) == (200, "good")
    assert (good["sampling_fraction"], good["requester"]) == (1.0, "token")
    assert good["logging_error_codes"] == []
    found = served.client.api_client.do(
        "GET", f"/api/2.0/serving-endpoints/{served.settings.endpoint}"
    )
    assert good["served_entity_id"] == found["config"]["served_entities"][0]["id"]
    assert abs(good["request_time"] - datetime.now(timezone.utc)).total_seconds() < 60
    assert good["request_date"] == good["request_time"].date()
    assert (bad["status_code"], bad["served_entity_id"]) == (400, None)
    assert bad["client_request_id"] == "bad"
    assert json.loads(bad["response"])["error_code"] == "BAD_REQUEST"
    assert good["databricks_request_id"] != bad["databricks_request_id"]
    assert served.client.api_client.do("POST", "/api/2.0/taxi/payloads/flush") == {"payloads": 0}
    text = json.dumps(captured(served.settings), default=str)
    assert served.token not in text


def test_without_an_inference_table_nothing_is_captured(served: Workspace) -> None:
    config = endpoint.endpoint_config(served.settings, "1")["config"]
    served.client.api_client.do(
        "POST", "/api/2.0/serving-endpoints", body={"name": "quiet", "config": config}
    )
    ready = served.client.serving_endpoints.wait_get_serving_endpoint_not_updating("quiet")
    assert ready.state is not None
    assert ready.state.ready is EndpointStateReady.READY
    served.client.serving_endpoints.query("quiet", dataframe_records=[TRIP])
    assert served.client.api_client.do("POST", "/api/2.0/taxi/payloads/flush") == {"payloads": 0}


def test_a_clean_stop_loses_nothing_and_a_crash_at_most_a_second(
    start: Callable[[], Workspace],
) -> None:
    workspace = start()
    serve(workspace)
    for number in range(20):
        query(workspace, f"before-stop-{number}")
    workspace.restart()
    names = [row["client_request_id"] for row in captured(workspace.settings)]
    assert names == [f"before-stop-{number}" for number in range(20)]

    for number in range(20):
        query(workspace, f"before-crash-{number}")
    time.sleep(1)
    kill(workspace.settings)
    process.ensure_running(workspace.settings)
    assert query(workspace, "after") > 0
    workspace.client.api_client.do("POST", "/api/2.0/taxi/payloads/flush")
    names = [row["client_request_id"] for row in captured(workspace.settings)][20:]
    assert names == [*(f"before-crash-{number}" for number in range(20)), "after"]


@pytest.fixture
def memory(settings: Settings) -> State:
    return State(state.database(settings))


TARGET = "a.b.c_payload"


def payload(number: int) -> tuple[Any, ...]:
    return (f"id-{number}", None, number, 200, 1, "{}", "{}", "entity", "[]", None)


def rows(settings: Settings, target: str = TARGET) -> list[str]:
    table = DeltaTable(str(settings.table_path(target))).to_pyarrow_table()
    return sorted(table.column("databricks_request_id").to_pylist())


def test_a_crash_between_commit_and_cleanup_writes_nothing_twice(
    settings: Settings, memory: State
) -> None:
    memory.buffer({TARGET: [payload(number) for number in range(3)]})
    memory.buffer({TARGET: [payload(3), payload(4)]})
    capture._append(settings, memory, TARGET, *memory.buffered(TARGET, 100))  # and then it died
    memory.buffer({TARGET: [payload(5)]})
    assert memory.targets() == {TARGET: 6}
    assert memory.waiting() == 6
    assert capture.flush(settings) == 1
    assert rows(settings) == [f"id-{number}" for number in range(6)]
    assert memory.targets() == {}
    assert capture.flush(settings, memory) == 0


def test_a_new_buffer_counts_from_one_without_losing_rows(
    settings: Settings, memory: State
) -> None:
    memory.buffer({TARGET: [payload(number) for number in range(5)]})
    assert capture.flush(settings, memory) == 5
    memory.close()
    for file in settings.home.glob("workspace.db*"):
        file.unlink()
    fresh = State(state.database(settings))
    fresh.buffer({TARGET: [payload(7)]})
    assert capture.flush(settings, fresh) == 1
    assert rows(settings) == ["id-0", "id-1", "id-2", "id-3", "id-4", "id-7"]


def test_large_buffers_are_moved_in_parts(
    settings: Settings, memory: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "FLUSH_ROWS", 3)
    for start in range(0, 10, 2):
        memory.buffer({TARGET: [payload(start), payload(start + 1)]})
    assert capture.flush(settings, memory) == 10
    assert len(rows(settings)) == 10
    assert DeltaTable(str(settings.table_path(TARGET))).version() == 2  # 4, 4 and 2 rows
    assert memory.buffered(TARGET, 3) == (0, [])


def test_each_table_gets_its_own_rows(settings: Settings, memory: State) -> None:
    memory.buffer({TARGET: [payload(1), payload(3)], "a.b.d_payload": [payload(2)]})
    assert capture.flush(settings, memory) == 3
    assert rows(settings) == ["id-1", "id-3"]
    assert rows(settings, "a.b.d_payload") == ["id-2"]


def test_payloads_that_cannot_be_written_are_kept_and_others_do_not_wait(
    settings: Settings, memory: State
) -> None:
    blocked = settings.table_path("a.b.c_payload")
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where the table's folder should be")
    memory.buffer({TARGET: [payload(1)], "a.b.d_payload": [payload(2)]})
    with pytest.raises(Exception, match="c_payload"):
        capture.flush(settings, memory)
    assert memory.targets() == {"a.b.c_payload": 1}
    assert rows(settings, "a.b.d_payload") == ["id-2"]
    blocked.unlink()
    assert capture.flush(settings, memory) == 1
    assert rows(settings) == ["id-1"]
