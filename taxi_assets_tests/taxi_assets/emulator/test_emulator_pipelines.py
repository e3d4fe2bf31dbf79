"""Publishing waits for the sync: what the workspace tells of it, and every way it can end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue, NotFound
from databricks.sdk.service.database import DatabaseInstance
from databricks.sdk.service.ml import OnlineStoreState, PublishSpec
from databricks.sdk.service.pipelines import PipelineState, UpdateInfoState

from databricks_steps import schemas
from databricks_steps.errors import ServingError
from databricks_steps.settings import Settings
from taxi_assets.deployment import online_store, retries
from taxi_assets.emulator import process
from taxi_assets_tests.documents import Documents, answering
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import (
    GRID,
    START,
    Workspace,
    feature_rows,
    write_features,
)
from taxi_assets_tests.waiting import until

pytestmark = pytest.mark.slow

TABLE = schemas.DROPOFF_FEATURES


@pytest.fixture(scope="module")
def store(workspace: Workspace) -> Workspace:
    online_store.ensure_online_store(workspace.client, workspace.settings)
    return workspace


def publish(workspace: Workspace) -> online_store.PublishResult:
    return online_store.publish(workspace.client, workspace.settings, TABLE)


def states(workspace: Workspace, pipeline_id: str) -> list[UpdateInfoState | None]:
    """Of the updates, the newest first."""
    found = workspace.client.pipelines.list_updates(pipeline_id).updates or []
    return [update.state for update in found]


def shown(workspace: Workspace) -> Any:
    name = online_store.online_table_name(workspace.settings, TABLE)
    found: Any = workspace.client.api_client.do("GET", f"/api/2.0/taxi/online-tables/{name}")
    return found


def test_each_publish_is_an_update_of_the_tables_one_pipeline(store: Workspace) -> None:
    api = store.client.pipelines
    first, second = publish(store), publish(store)
    assert first.pipeline_id == second.pipeline_id
    assert states(store, first.pipeline_id) == [UpdateInfoState.COMPLETED] * 2
    pipeline = api.get(first.pipeline_id)
    assert (pipeline.state, pipeline.name) == (
        PipelineState.IDLE,
        "Sync of p03.e2e_demo_simon.dropoff_features_online",
    )
    newest, _ = pipeline.latest_updates or []
    told = api.list_updates(first.pipeline_id, max_results=1)
    assert [update.update_id for update in told.updates or []] == [newest.update_id]
    assert list(api.list_pipeline_events(first.pipeline_id)) == []
    started = api.start_update(first.pipeline_id).update_id
    told = api.list_updates(first.pipeline_id, max_results=1)
    assert [update.update_id for update in told.updates or []] == [started]


def test_a_refused_publish_is_no_update(store: Workspace) -> None:
    done = publish(store)
    before = states(store, done.pipeline_id)
    spec = PublishSpec(store.settings.online_store, done.online_table)
    for source in ("trips", "pickup_features"):
        with pytest.raises(Exception, match=r"Only a feature table|has one source"):
            store.client.feature_store.publish_table(store.settings.table(source), spec)
    assert states(store, done.pipeline_id) == before
    spec = PublishSpec(store.settings.online_store, "a.b.never_published")
    with pytest.raises(InvalidParameterValue):
        store.client.feature_store.publish_table(store.settings.table("trips"), spec)
    assert online_store.last_update(store.client, "a.b.never_published") is None


def test_a_sync_that_breaks_fails_with_its_reason_and_leaves_the_old_rows(
    store: Workspace,
) -> None:
    done = publish(store)
    before = shown(store)
    rows = feature_rows(TABLE, [41, 42], [START + GRID * 9], seed=3)
    write_features(store.settings, TABLE, rows, mode="append")
    folder = store.settings.table_path(TABLE.name)
    newest = max(folder.rglob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)
    content = newest.read_bytes()
    newest.unlink()
    with pytest.raises(ServingError, match="sync of an online table must succeed") as caught:
        publish(store)
    assert f"pipeline {done.pipeline_id}, update" in str(caught.value)
    assert newest.name in str(caught.value)
    assert shown(store) == before
    pipeline = store.client.pipelines.get(done.pipeline_id)
    assert pipeline.state is PipelineState.FAILED
    newest.write_bytes(content)
    publish(store)
    assert shown(store)["version"] == before["version"] + 1
    assert states(store, done.pipeline_id)[:2] == [
        UpdateInfoState.COMPLETED,
        UpdateInfoState.FAILED,
    ]


def helper(workspace: Workspace) -> int:
    """The process that publishes."""
    manager = process.status(workspace.settings).pid
    tasks = Path(f"/proc/{manager}/task").glob("*/children")  # each thread has its own
    children = [pid for task in tasks for pid in task.read_text().split()]
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return next(pid for pid, line in lines.items() if b"spawn_main" in line)


@contextmanager
def hanging(workspace: Workspace, pipeline_id: str) -> Iterator[list[BaseException]]:
    """A publish that has begun and does not go on; gives what it raised once it went."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            publish(workspace)
        except Exception as error:
            raised.append(error)

    stopped, thread = helper(workspace), threading.Thread(target=run)
    os.kill(stopped, signal.SIGSTOP)
    thread.start()
    try:
        until(lambda: states(workspace, pipeline_id)[0] is UpdateInfoState.RUNNING)
        yield raised
    finally:
        os.kill(stopped, signal.SIGCONT)
        thread.join()


def test_a_sync_that_never_ends_is_given_up_at_the_deadline(store: Workspace) -> None:
    done = publish(store)
    before = online_store.last_update(store.client, done.online_table)
    with hanging(store, done.pipeline_id) as raised:
        assert store.client.pipelines.get(done.pipeline_id).state is PipelineState.RUNNING
        with pytest.raises(ServingError, match=r"must end within 0\.5 seconds.* is RUNNING"):
            online_store.await_sync(store.client, done.pipeline_id, before, 0.5)
    assert raised == []
    assert states(store, done.pipeline_id)[0] is UpdateInfoState.COMPLETED
    online_store.await_sync(store.client, done.pipeline_id, before, 0.5)


def test_a_pipeline_that_nobody_knows_is_named(store: Workspace) -> None:
    with pytest.raises(ServingError, match="gone: Pipeline does not exist: gone"):
        online_store.await_sync(store.client, "gone", None)


def test_a_store_that_was_stopped_takes_no_publish_and_is_started(store: Workspace) -> None:
    name = store.settings.online_store
    instances, stopped = store.client.database, DatabaseInstance(name, stopped=True)
    instances.update_database_instance(name, stopped, "*")
    assert store.client.feature_store.get_online_store(name).state is OnlineStoreState.STOPPED
    with pytest.raises(ServingError, match="An online store must run: STOPPED"):
        publish(store)
    found = online_store.ensure_online_store(store.client, store.settings)
    assert found.state is OnlineStoreState.AVAILABLE
    publish(store)
    with pytest.raises(ServingError, match="absent is stopped and does not start: .*absent"):
        online_store._start_store(store.client, "absent")


def test_an_update_under_way_when_the_workspace_dies_has_failed(
    start: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "PATIENCE", timedelta(seconds=1))
    workspace = start()
    online_store.ensure_online_store(workspace.client, workspace.settings)
    done = publish(workspace)
    manager = process.status(workspace.settings).pid
    assert manager is not None
    with hanging(workspace, done.pipeline_id) as raised:
        os.kill(manager, signal.SIGKILL)
    assert len(raised) == 1
    process.ensure_running(workspace.settings)
    assert states(workspace, done.pipeline_id) == [
        UpdateInfoState.FAILED,
        UpdateInfoState.COMPLETED,
    ]
    (event,) = workspace.client.pipelines.list_pipeline_events(done.pipeline_id)
    assert "The workspace ended while the update was under way" in str(event.error)
    workspace.client.feature_store.delete_online_store(workspace.settings.online_store)
    with pytest.raises(NotFound):
        workspace.client.pipelines.get(done.pipeline_id)


@contextmanager
def databricks(
    newest: list[dict[str, str] | None], **pipeline: Any
) -> Iterator[tuple[WorkspaceClient, list[str]]]:
    """Answers as Databricks' pipelines do: each look at the updates sees the next of `newest`.

    Gives a client, and the paths at which an update was started.
    """
    started: list[str] = []

    class Handler(Documents):
        def do_GET(self) -> None:
            if self.path.split("?")[0].endswith("/updates"):
                update = newest.pop(0) if len(newest) > 1 else newest[0]
                self.answer(200, {"updates": [update | {"pipeline_id": "p"}] if update else []})
            elif "/events" in self.path:
                self.answer(200, {"events": []})
            elif "/unity-catalog/" in self.path:  # promises a pipeline of no online table
                self.answer(200, {"name": "pickup_features_online", "columns": []})
            else:
                self.answer(200, {"pipeline_id": "p", **pipeline})

        def do_POST(self) -> None:
            if self.path.endswith("/publish"):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(200, {"pipeline_id": "p", "online_table_name": "n"})
                return
            started.append(self.path)
            newest[:] = [{"update_id": "another", "state": "COMPLETED"}]
            self.answer(409, "one is active")

    with answering(Handler) as host:
        yield online_store.workspace_client(host, "token"), started


def test_the_update_that_a_publish_starts_is_waited_for_from_its_first_state_on() -> None:
    old = {"update_id": "old", "state": "COMPLETED"}
    new = [{"update_id": "new", "state": s} for s in ("QUEUED", "RUNNING", "COMPLETED")]
    newest = [None, old, *new]
    with databricks(newest) as (client, started):
        online_store.await_sync(client, "p", "old", 20)
    assert newest == new[-1:]
    assert started == []


def test_a_second_publish_waits_for_its_own_update_though_no_table_tells_its_pipeline() -> None:
    old = {"update_id": "old", "state": "COMPLETED"}
    new = [{"update_id": "new", "state": s} for s in ("QUEUED", "RUNNING", "COMPLETED")]
    newest: list[dict[str, str] | None] = [old, old, *new]
    with databricks(newest) as (client, started):
        done = online_store.publish(client, Settings(), schemas.PICKUP_FEATURES)
    assert done.pipeline_id == "p"
    assert newest == new[-1:]
    assert started == []


@pytest.mark.parametrize("newest", [{"update_id": "old", "state": "COMPLETED"}, None])
def test_where_a_publish_starts_no_update_one_is_started(
    newest: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online_store, "SETTLE_SECONDS", 0.2)
    with databricks([newest]) as (client, started):
        online_store.await_sync(client, "p", "old", 20)
    assert len(started) == 1


def test_a_continuous_pipeline_is_in_sync_while_it_runs_and_a_cancelled_one_is_not() -> None:
    running: dict[str, str] | None = {"update_id": "one", "state": "RUNNING"}
    with databricks([running], spec={"continuous": True}) as (client, _):
        online_store.await_sync(client, "p", None, 20)
    with (
        databricks([running], spec={"continuous": False}) as (client, _),
        pytest.raises(ServingError, match=r"must end within 0\.3 seconds"),
    ):
        online_store.await_sync(client, "p", None, 0.3)
    canceled: dict[str, str] | None = {"update_id": "one", "state": "CANCELED"}
    with (
        databricks([canceled], cause="stopped by a@b.c") as (client, _),
        pytest.raises(ServingError, match=r"pipeline p, update one is CANCELED: stopped by a@b\.c"),
    ):
        online_store.await_sync(client, "p", None)
