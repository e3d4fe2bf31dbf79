"""Several processes behind one port: each answers, swaps, counts, and ends with its manager."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from databricks.sdk.errors import NotFound
from deltalake import DeltaTable

from databricks_steps.serving import endpoint
from databricks_steps.workspace import process, state
from databricks_steps.workspace.state import State
from taxi_assets_tests.databricks_steps.workspace.clients import Clients
from taxi_assets_tests.databricks_steps.workspace.homes import TRIP, Workspace, serve

pytestmark = [pytest.mark.long, pytest.mark.alone]  # load, kills and times

WORKERS = 3


@pytest.fixture(scope="module")
def many(start: Callable[..., Workspace]) -> Iterator[Workspace]:
    workspace = start(workers=WORKERS)
    serve(workspace)
    return workspace


def children(workspace: Workspace) -> list[int]:
    """The processes of this workspace's workers."""
    pid = process.status(workspace.settings).pid
    tasks = Path(f"/proc/{pid}/task").iterdir()
    found = [int(child) for task in tasks for child in told(task / "children").split()]
    lines = {child: told(Path(f"/proc/{child}/cmdline")) for child in found}
    return [child for child, line in lines.items() if b"workspace.worker" in line]


def told(file: Path) -> bytes:
    """What the kernel tells of a thread or a process; nothing of one that has just ended."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


class Load:
    """Clients with a connection each; what they were answered, and what went wrong."""

    def __init__(self, workspace: Workspace, clients: int) -> None:
        self.fares: Counter[float] = Counter()
        self.failures: list[str] = []
        self._workspace, self._stop = workspace, threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        settings = self._workspace.settings
        url = f"{settings.host}/serving-endpoints/{settings.endpoint}/invocations"
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {self._workspace.token}"
            while not self._stop.is_set():
                self._ask(session, url)

    def _ask(self, session: requests.Session, url: str) -> None:
        try:
            answer = session.post(url, json={"instances": [TRIP]}, timeout=30)
        except requests.RequestException as error:
            self.failures.append(str(error))
            return
        if answer.status_code == 200:
            self.fares[answer.json()["predictions"][0]] += 1
        else:
            self.failures.append(answer.text)


def connections(pid: int) -> int:
    """Sockets a process holds."""
    links = [link for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return sum(str(link.readlink()).startswith("socket:") for link in links)


def test_every_process_answers_and_swaps_without_a_failed_request(many: Workspace) -> None:
    client, settings = many.client, many.settings
    assert len(children(many)) == WORKERS - 1
    idle = {pid: connections(pid) for pid in children(many)}
    fares = {}
    with Load(many, 12) as load:
        wait_until(lambda: load.fares.total() > 50)
        busy = {pid: connections(pid) for pid in idle}
        for version in ("2", "1", "2"):
            state = endpoint.ensure_endpoint(client, settings, version, timeout=60)
            assert state.action == "updated"
            # Ready means that every process has swapped: connections of all kinds agree.
            asked = [endpoint.query(client, settings, {"instances": [TRIP]})[0] for _ in range(20)]
            assert len(set(asked)) == 1
            fares[version] = asked[0]
    assert all(busy[pid] > idle[pid] for pid in idle)
    assert load.failures == []
    assert fares["1"] != pytest.approx(fares["2"], abs=0.5)
    assert set(load.fares) == set(fares.values())


def test_a_stop_under_load_keeps_every_counter_and_payload_of_every_process(
    many: Workspace,
) -> None:
    client, settings = many.client, many.settings

    def counted() -> int:
        found = client.api_client.do("GET", "/api/2.0/taxi/overview")["endpoints"][0]
        return sum(sum(each["codes"].values()) for each in found["answered"])

    time.sleep(1.5)
    before = counted()

    def body(number: int) -> dict[str, Any]:
        return {"instances": [TRIP], "client_request_id": f"stop-{number}"}

    with Clients(settings, 9, body, until_gone=True) as clients:
        clients.await_answers(500)
        assert process.stop(settings)  # and not a moment of rest before it
    assert clients.failures == []
    assert not process.state_file(settings).exists()
    table = DeltaTable(str(settings.table_path(settings.payload_table))).to_pyarrow_table()
    kept = [name for name in table.column("client_request_id").to_pylist() if name]
    answered = {f"stop-{number}" for number, _, _ in clients.answers}
    assert len(kept) == len(set(kept))
    assert answered - set(kept) == set()
    process.ensure_running(settings)
    assert counted() - before == len(kept)
    assert table.num_rows == counted()


def test_an_endpoint_deleted_while_it_loads_stays_away(many: Workspace) -> None:
    client, settings = many.client, many.settings
    for _ in range(3):
        config = endpoint.endpoint_config(settings, "2")["config"]
        path = "/api/2.0/serving-endpoints"
        client.api_client.do("POST", path, body={"name": "brief", "config": config})
        client.serving_endpoints.delete("brief")
        time.sleep(0.5)
        with pytest.raises(NotFound):
            client.serving_endpoints.get("brief")
        assert State(state.database(settings)).get("endpoint", "brief") is None


def test_workers_try_again_after_a_start_without_the_models_copy(
    start: Callable[..., Workspace],
) -> None:
    workspace = start(workers=2)
    serve(workspace)
    client, settings = workspace.client, workspace.settings
    fare = endpoint.query(client, settings, {"instances": [TRIP]})
    process.stop(settings)
    shutil.rmtree(settings.home / "workspace" / "models")
    process.ensure_running(settings)
    endpoint.ensure_endpoint(client, settings, "1", timeout=60)
    with Load(workspace, 8) as load:  # connections enough for both processes
        wait_until(lambda: load.fares.total() > 100)
    assert load.failures == []
    assert set(load.fares) == set(fare)


def test_management_by_any_process_is_the_managers(many: Workspace) -> None:
    settings = many.settings
    headers = {"Authorization": f"Bearer {many.token}"}
    pids = set()
    for _ in range(30):  # a connection each, so that any process may take it
        assert requests.get(f"{settings.host}/health", timeout=10).json()["status"] == "ok"
        pids.add(requests.get(f"{settings.host}/health", timeout=10).json()["pid"])
        url = f"{settings.host}/api/2.0/serving-endpoints/{settings.endpoint}"
        assert requests.get(url, headers=headers, timeout=10).json()["name"] == settings.endpoint
        assert requests.get(url, timeout=10).status_code == 401
        missing = requests.get(f"{url}x", headers=headers, timeout=10)
        assert (missing.status_code, missing.json()["error_code"]) == (
            404,
            "RESOURCE_DOES_NOT_EXIST",
        )
    assert pids == {process.status(settings).pid}


def test_a_worker_that_dies_is_replaced(many: Workspace) -> None:
    first, *_ = children(many)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: first not in children(many) and len(children(many)) == WORKERS - 1)
    settings = many.settings
    answers = [endpoint.query(many.client, settings, {"instances": [TRIP]}) for _ in range(5)]
    assert len({answer[0] for answer in answers}) == 1


def test_workers_end_with_a_manager_that_is_killed(many: Workspace) -> None:
    settings, left = many.settings, children(many)
    fare = endpoint.query(many.client, settings, {"instances": [TRIP]})
    manager = process.status(settings).pid
    assert manager is not None
    os.kill(manager, signal.SIGKILL)
    process.ensure_running(settings)  # waits for them to leave the port
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
    assert endpoint.query(many.client, settings, {"instances": [TRIP]}) == fare
    wait_until(lambda: len(children(many)) == WORKERS - 1)
    left = children(many)
    process.stop(settings)
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    process.ensure_running(settings)
