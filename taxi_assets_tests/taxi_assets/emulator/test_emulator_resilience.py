"""Load, swaps, publishes, kills and slow clients: nothing fails, mixes, leaks or gets lost."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from deltalake import DeltaTable

from databricks_steps.settings import LOOPBACK
from taxi_assets.deployment import endpoint, online_store
from taxi_assets.emulator import process, server
from taxi_assets.emulator.api import invocations
from taxi_assets.emulator.runtime import capture, online_tables
from taxi_assets.emulator.runtime.online_tables import OnlineTables
from taxi_assets_tests.taxi_assets.emulator.clients import Clients
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import (
    GRID,
    START,
    TABLES,
    TRIP,
    Workspace,
    feature_rows,
    serve,
    write_features,
)

pytestmark = [pytest.mark.long, pytest.mark.alone]  # load, kills and times

SECONDS = float(os.environ.get("TAXI_SOAK_SECONDS", "8"))
CONNECTIONS = 64
OTHER = {**TRIP, "pickup_location_id": 75, "trip_distance": 9.1}
MEGABYTES_OF_GROWTH = 25


def resident(pid: int) -> float:
    """Megabytes of memory a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_swaps_and_publishes_under_load_fail_nothing_and_mix_nothing(
    start: Callable[..., Workspace],
) -> None:
    workspace = start()
    serve(workspace)
    client, settings = workspace.client, workspace.settings
    pid = process.status(settings).pid
    assert pid is not None

    def body(number: int) -> dict[str, Any]:
        return {"instances": [TRIP, OTHER] if number % 2 else [TRIP]}

    def steady() -> tuple[float, float]:
        first, second = endpoint.query(client, settings, body(1))
        return first, second

    allowed = {steady()}
    published: list[str] = []
    with Clients(settings, CONNECTIONS, body) as clients:
        clients.await_answers(1_000)
        time.sleep(3)  # from here on it has buffers of every size it needs
        before = resident(pid)
        events = ["2", "publish", "1", "2", "publish", "1", "publish", "2"]
        until = time.monotonic() + SECONDS
        for number, event in enumerate(events):
            if event == "publish":
                for seed, table in enumerate(TABLES):
                    step = 5 + number
                    rows = feature_rows(table, [41, 42, 74, 75], [START + GRID * step], seed + step)
                    write_features(settings, table, rows, mode="append")
                    online_store.publish(client, settings, table)
                    allowed.add(steady())  # each table is published by itself
                published.append(event)
            else:
                state = endpoint.ensure_endpoint(client, settings, event, timeout=60)
                assert state.action == "updated"
                allowed.add(steady())
            time.sleep(max(0.0, until - time.monotonic()) / (len(events) - number))
        after = resident(pid)
    print(f"{len(clients.answers):,} answers, {before:.0f} MiB before and {after:.0f} MiB after")
    assert clients.failures == []
    assert len(published) == 3
    singles = {fares[0] for fares in allowed}
    assert len(singles) >= 6  # the fares tell versions and publishes apart
    for number, _, fares in clients.answers:
        assert fares in allowed if number % 2 else fares[0] in singles
    assert len(clients.answers) > 100 * SECONDS
    assert after - before < MEGABYTES_OF_GROWTH, f"from {before:.0f} to {after:.0f} MiB"


def test_a_kill_under_load_loses_at_most_a_second_and_nothing_of_the_rest(
    start: Callable[..., Workspace],
) -> None:
    workspace = start()
    serve(workspace)
    client, settings = workspace.client, workspace.settings
    shown = client.serving_endpoints.get(settings.endpoint)
    tables = OnlineTables(online_tables.database(settings)).published()
    pid = process.status(settings).pid
    assert pid is not None

    def body(number: int) -> dict[str, Any]:
        return {"instances": [TRIP], "client_request_id": f"load-{number}"}

    with Clients(settings, 16, body, until_gone=True) as clients:
        clients.await_answers(3_000)
        time.sleep(2.5)  # several buffers, and none of them flushed
        killed = time.time()
        os.kill(pid, signal.SIGKILL)
    process.ensure_running(settings)
    assert client.serving_endpoints.get(settings.endpoint) == shown
    assert OnlineTables(online_tables.database(settings)).published() == tables
    fares = {f"load-{number}": found for number, _, found in clients.answers}
    for number in (0, 1, 2, 3, 50):  # the same version as before
        again = endpoint.query(client, settings, body(number))
        assert tuple(again) == fares[f"load-{number}"]
    client.api_client.do("POST", "/api/2.0/taxi/payloads/flush")
    table = DeltaTable(str(settings.table_path(settings.payload_table))).to_pyarrow_table()
    names = table.column("client_request_id").to_pylist()
    ids = table.column("databricks_request_id").to_pylist()
    assert len(set(ids)) == len(ids)
    kept = set(names)
    lost = [when for number, when, _ in clients.answers if f"load-{number}" not in kept]
    newest = max((killed - when for when in lost), default=0.0)
    print(f"{len(clients.answers):,} answered, {len(lost)} lost, of the last {newest:.2f} s")
    assert newest <= 1.0
    older = [number for number, when, _ in clients.answers if killed - when > 1.0]
    assert len(older) > 1_000


def test_captured_rows_tell_which_features_were_looked_up(served: Workspace) -> None:
    late = {**TRIP, "pickup_datetime": "2022-02-20 08:30:00"}  # older than a week
    unknown = {**TRIP, "pickup_location_id": 9_999}
    for rows in ([TRIP], [late], [TRIP, late, unknown]):
        endpoint.query(served.client, served.settings, {"instances": rows})
    served.client.api_client.do("POST", "/api/2.0/taxi/payloads/flush")
    settings = served.settings
    table = DeltaTable(str(settings.table_path(settings.payload_table))).to_pyarrow_table()
    captured = table.sort_by("request_time").column("looked_up_features").to_pylist()
    one, stale, three = (json.loads(text) for text in captured[-3:])
    source = settings.table("pickup_features")
    tables = OnlineTables(online_tables.database(settings))
    row = tables.rows(f"{source}_online")[74]
    features = {name: value for name, value in row.items() if name != "known_at"}
    known = {"known_at": "2022-02-01T00:30:00", "features": features}
    assert one[source] == {"74": known}
    assert stale[source] == {"74": {"known_at": "2022-02-01T00:30:00", "features": None}}
    assert three[source] == {"74": known, "9999": None}
    assert list(three[settings.table("dropoff_features")]) == ["42"]


def test_a_slow_head_and_an_idle_connection_are_cut_off_and_others_do_not_wait(
    served: Workspace,
) -> None:
    """Thirty seconds is long for a test: both connections wait them out at the same time."""
    assert server.HEAD_SECONDS == 30
    address = (LOOPBACK, served.settings.port)
    with (
        socket.create_connection(address, timeout=40) as slow,
        socket.create_connection(address, timeout=40) as idle,
    ):
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):  # head and body may come one by one
            answer += idle.recv(4_000)
        assert answer.startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        slow.sendall(b"POST /serving-endpoints/x/invocations HTTP/1.1\r\nHost: x\r\n")
        idle.sendall(b"\r\n")
        assert endpoint.query(served.client, served.settings, {"instances": [TRIP]})
        assert time.monotonic() - started < 5
        for connection in (slow, idle):
            assert connection.recv(100) == b""  # closed by the server
            assert 25 < time.monotonic() - started < 40


def test_a_head_without_end_is_cut_off(served: Workspace) -> None:
    address = (LOOPBACK, served.settings.port)
    with socket.create_connection(address, timeout=10) as endless:
        endless.sendall(b"GET / HTTP/1.1\r\n")
        try:
            for number in range(200):
                endless.sendall(f"X-{number}: {'y' * 8_000}\r\n".encode())
            gone = endless.recv(1_000) == b""
        except (ConnectionResetError, BrokenPipeError):
            gone = True
    assert gone


@pytest.mark.parametrize("endless", [b"a:\r\n", b"a", b"a: b\r\n"])
def test_fields_after_a_body_without_end_are_cut_off(served: Workspace, endless: bytes) -> None:
    path = f"/serving-endpoints/{served.settings.endpoint}/invocations"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n0\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", served.settings.port), timeout=10) as connection:
        connection.sendall(head.encode())
        with suppress(ConnectionError):
            while sent < 8 * 2**20:
                sent += connection.send(endless * 8_000)
                time.sleep(0.001)
    assert sent < 8 * 2**20


def test_a_body_in_chunks_of_one_byte_is_read(served: Workspace) -> None:
    body = json.dumps({"dataframe_records": [{"x": "y" * 50_000}]}).encode()
    path = f"/serving-endpoints/{served.settings.endpoint}/invocations"
    with closing(http.client.HTTPConnection("127.0.0.1", served.settings.port, timeout=60)) as c:
        headers = {"Authorization": f"Bearer {served.token}"}
        parts = (bytes([byte]) for byte in body)
        c.request("POST", path, parts, headers, encode_chunked=True)
        assert c.getresponse().status == 400


def test_a_head_in_two_parts_after_a_large_body_is_answered(served: Workspace) -> None:
    settings = served.settings
    path = f"/serving-endpoints/{settings.endpoint}/invocations"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.token}\r\n"
    body = json.dumps({"instances": [TRIP]})
    with socket.create_connection((LOOPBACK, settings.port), timeout=10) as connection:
        for padded in (body.ljust(300_000), body):
            connection.sendall(head.encode())
            time.sleep(0.2)
            connection.sendall(f"Content-Length: {len(padded)}\r\n\r\n{padded}".encode())
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(4_000)
            assert answer.startswith(b"HTTP/1.1 200")


def test_more_queries_at_once_than_the_limit_are_put_off_with_429(served: Workspace) -> None:
    settings = served.settings
    path = f"/serving-endpoints/{settings.endpoint}/invocations"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.token}\r\n"
        "Content-Length: 100\r\n\r\n{"
    )
    waiting = []
    try:
        for _ in range(invocations.IN_FLIGHT):
            connection = socket.create_connection((LOOPBACK, settings.port), timeout=10)
            connection.sendall(head.encode())
            waiting.append(connection)
        time.sleep(0.5)
        answer = requests.post(
            settings.host + path,
            json={"instances": [TRIP]},
            headers={"Authorization": f"Bearer {served.token}"},
            timeout=10,
        )
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    finally:
        for connection in waiting:
            connection.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert endpoint.query(served.client, settings, {"instances": [TRIP]})
            break
        except Exception:
            time.sleep(0.1)
    assert endpoint.query(served.client, settings, {"instances": [TRIP]})


def test_capture_is_full_by_number_and_by_bytes(settings: Any) -> None:
    from taxi_assets.emulator.runtime import metrics, predict, state
    from taxi_assets.emulator.runtime.capture import Capture, Taken
    from taxi_assets.emulator.runtime.state import State

    memory = State(state.database(settings))
    taking = Capture(memory, flush=None)
    told = predict.refused("BAD_REQUEST", "no", "id")
    large = Taken("e", None, told, b"x" * (1024 * 1024), 0, 0)
    for _ in range(capture.FULL_BYTES // large.size):
        taking.put(large)
    assert not taking.full
    taking.put(large)
    assert taking.full
    taking.settle()
    assert not taking.full
    small = Taken("e", None, told, b"", 0, 0)
    for _ in range(capture.FULL - 1):
        taking.put(small)
    assert not taking.full
    taking.put(small)
    assert taking.full
    taking.settle()
    assert not taking.full
    (answered,) = memory.get(metrics.KIND, "e")["answered"]
    assert answered["codes"] == {"400": capture.FULL + capture.FULL_BYTES // large.size + 1}
    assert capture.BUFFER_SECONDS < 1  # what a kill may lose
