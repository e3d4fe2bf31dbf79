"""Online tables by the Databricks SDK alone: the same calls on a laptop and on Databricks.

A publish answers before the rows are there: the pipeline that syncs them is waited for.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from databricks_steps import schemas
from databricks_steps.errors import ServingError, reason
from databricks_steps.settings import LOOPBACK, Settings
from taxi_assets.deployment.retries import patiently

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.ml import OnlineStore
    from databricks.sdk.service.pipelines import UpdateInfo

CAPACITY = "CU_1"
TABLES = (schemas.PICKUP_FEATURES, schemas.DROPOFF_FEATURES)  # what is published
STORE_SECONDS = 1800.0
SYNC_SECONDS = 1800.0
SETTLE_SECONDS = 15.0  # in which a publish starts its update; later this side starts one
LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.1, 10.0
EVENTS = 50  # of a failed update that are looked through for its reason


@dataclass(frozen=True)
class PublishResult:
    """A feature table and the online table that now shows its latest rows."""

    source: str
    online_table: str
    pipeline_id: str
    seconds: float


def workspace_client(host: str, token: str) -> WorkspaceClient:
    """A client of a workspace by host and token, whatever else the environment configures."""
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config

    local = host.startswith(f"http://{LOOPBACK}:")
    client = WorkspaceClient(
        config=Config(
            host=host,
            token=token,
            auth_type="pat",
            http_timeout_seconds=60,
            retry_timeout_seconds=10 if local else 300,
        )
    )
    if local:
        # A proxy from the environment could not reach loopback. The SDK has no option for it.
        client.api_client._api_client._session.trust_env = False
    return client


def online_table_name(settings: Settings, table: schemas.Table) -> str:
    return f"{settings.table(table.name)}_online"


def published_columns(
    client: WorkspaceClient, settings: Settings
) -> dict[str, tuple[str, ...] | None]:
    """Feature table, by full name → the columns of its online table; None when not published.

    Raises:
        ServingError: the workspace does not answer.
    """
    from databricks.sdk.errors import NotFound

    found: dict[str, tuple[str, ...] | None] = {}
    for table in TABLES:
        name = online_table_name(settings, table)
        try:
            columns = patiently(partial(client.tables.get, name)).columns or []
            found[settings.table(table.name)] = tuple(c.name for c in columns if c.name)
        except NotFound:
            found[settings.table(table.name)] = None
        except OSError as error:  # those of the SDK and of requests all are
            raise ServingError(
                "The workspace must tell what is published", f"{name}: {reason(error)}", "Start it"
            ) from error
    return found


def ensure_online_store(client: WorkspaceClient, settings: Settings) -> OnlineStore:
    """The project's online store, made when missing, once it can be used.

    Raises:
        ServingError: it does not become available, or the workspace refuses.
    """
    try:
        return _available(client, settings.online_store)
    except OSError as error:
        raise ServingError(
            "The workspace must keep the online store",
            f"{settings.online_store}: {reason(error)}",
            "Correct host, credentials or grants: docs/databricks.md",
        ) from error


def _available(client: WorkspaceClient, name: str) -> OnlineStore:
    from databricks.sdk.errors import AlreadyExists, NotFound, ResourceAlreadyExists
    from databricks.sdk.service.ml import OnlineStore, OnlineStoreState

    api = client.feature_store

    def look() -> OnlineStore:
        return patiently(lambda: api.get_online_store(name))

    try:
        store = look()
    except NotFound:
        try:
            store = patiently(lambda: api.create_online_store(OnlineStore(name, CAPACITY)))
        except (AlreadyExists, ResourceAlreadyExists):  # by someone else, or its answer was lost
            store = look()
    if store.state is OnlineStoreState.STOPPED:
        _start_store(client, name)
        store = look()
    started, pause = time.monotonic(), LOOK_SECONDS
    while store.state is not OnlineStoreState.AVAILABLE:
        hopeless = store.state is OnlineStoreState.DELETING
        if time.monotonic() - started > STORE_SECONDS or hopeless:
            raise _unavailable(name, store.state.value if store.state else "no state")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_LOOK_SECONDS)
        store = look()
    return store


def _start_store(client: WorkspaceClient, name: str) -> None:
    """An online store is a database instance of Lakebase, by the same name."""
    from databricks.sdk.service.database import DatabaseInstance

    running = DatabaseInstance(name, stopped=False)
    try:
        patiently(lambda: client.database.update_database_instance(name, running, "*"))
    except OSError as error:
        raise _unavailable(name, f"stopped and does not start: {reason(error)}") from error


def _unavailable(name: str, state: str) -> ServingError:
    return ServingError(
        "The online store is not available",
        f"{name} is {state}",
        "Start it in the workspace (Compute, Lakebase), then materialize again",
    )


def publish(
    client: WorkspaceClient,
    settings: Settings,
    table: schemas.Table,
    sync_seconds: float = SYNC_SECONDS,
) -> PublishResult:
    """Bring the online table of a feature table up to date, and wait until it is; safe to repeat.

    Raises:
        ServingError: the workspace refuses, or the sync fails or takes longer than `sync_seconds`;
            the message says why.
    """
    from databricks.sdk.service.ml import PublishSpec, PublishSpecPublishMode

    started, source = time.perf_counter(), settings.table(table.name)
    since = math.floor(time.time() * 1000) / 1000  # as updates tell when they begin
    name = online_table_name(settings, table)
    spec = PublishSpec(settings.online_store, name, PublishSpecPublishMode.TRIGGERED)
    try:
        before = last_update(client, name)
        answer = patiently(lambda: client.feature_store.publish_table(source, spec))
    except OSError as error:
        raise ServingError(
            "A feature table must be published",
            f"{source}: {reason(error)}",
            "Materialize it first",
        ) from error
    if not answer.pipeline_id:
        raise ServingError(
            "A publish must name the pipeline that syncs", f"{name}: none", "Publish again"
        )
    await_sync(client, answer.pipeline_id, before, sync_seconds, since)
    return PublishResult(
        source,
        answer.online_table_name or name,
        answer.pipeline_id,
        time.perf_counter() - started,
    )


def last_update(client: WorkspaceClient, online_table: str) -> str | None:
    """The id of the newest update of an online table; None where it has none, or nobody tells.

    Asked before a publish, it tells the update that the publish starts from those of before.
    Databricks promises the pipeline of streaming tables and materialized views alone.
    """
    from databricks.sdk.errors import NotFound

    try:
        pipeline_id = patiently(lambda: client.tables.get(online_table)).pipeline_id
        found = _newest(client, pipeline_id) if pipeline_id else None
    except NotFound:
        return None
    return found.update_id if found else None


def await_sync(
    client: WorkspaceClient,
    pipeline_id: str,
    before: str | None,
    seconds: float = SYNC_SECONDS,
    since: float = 0.0,
) -> None:
    """Wait until a pipeline has ended an update other than `before`, or keeps running for good.

    Where `before` is not known, an update that has ended already and did not begin after `since`
    (seconds since 1970) is one of before.

    Raises:
        ServingError: the update failed, was cancelled or takes longer than `seconds`, or nobody
            knows the pipeline; the message holds its own reason.
    """
    try:
        _await_sync(client, pipeline_id, before, seconds, since)
    except OSError as error:
        raise ServingError(
            "The pipeline of an online table must tell how its sync goes",
            f"{pipeline_id}: {reason(error)}",
            "See that these credentials may view it, then publish again",
        ) from error


def _await_sync(
    client: WorkspaceClient, pipeline_id: str, before: str | None, seconds: float, since: float
) -> None:
    started, pause = time.monotonic(), LOOK_SECONDS
    if before is None:
        before = _ended_before(_newest(client, pipeline_id), since)
    while True:
        newest, waited = _newest(client, pipeline_id), time.monotonic() - started
        if newest is not None and newest.update_id != before:
            if _in_sync(client, newest):
                return
        elif waited > SETTLE_SECONDS:
            _start(client, pipeline_id)
        if waited > seconds:
            raise ServingError(
                f"The sync of an online table must end within {seconds:,g} seconds",
                f"pipeline {pipeline_id}, {_words(newest)}",
                "Look at the pipeline in the workspace, then publish again",
            )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_LOOK_SECONDS)


def _ended_before(update: UpdateInfo | None, since: float) -> str | None:
    from databricks.sdk.service.pipelines import UpdateInfoState as State

    if update is None or not since:
        return None
    over = update.state in (State.COMPLETED, State.FAILED, State.CANCELED)
    begun = (update.creation_time or 0) / 1000
    return update.update_id if over and begun < since else None


def _newest(client: WorkspaceClient, pipeline_id: str) -> UpdateInfo | None:
    told = patiently(lambda: client.pipelines.list_updates(pipeline_id, max_results=1))
    return told.updates[0] if told.updates else None


def _in_sync(client: WorkspaceClient, update: UpdateInfo) -> bool:
    """Whether the online table is up to date by this update; raises where it never will be."""
    from databricks.sdk.service.pipelines import UpdateInfoState as State

    if update.state is State.COMPLETED:
        return True
    if update.state in (State.FAILED, State.CANCELED):
        raise ServingError(
            "The sync of an online table must succeed",
            f"pipeline {update.pipeline_id}, {_words(update)}: {_reason(client, update)}",
            "Mend the cause, then publish again",
        )
    if update.state is not State.RUNNING:
        return False
    told = patiently(lambda: client.pipelines.get(str(update.pipeline_id)))
    return bool(told.spec and told.spec.continuous)  # such a one never completes


def _start(client: WorkspaceClient, pipeline_id: str) -> None:
    """Start an update: not every publish of a table that is online already does it by itself."""
    from databricks.sdk.errors import ResourceConflict

    with suppress(ResourceConflict):  # one is under way after all
        patiently(lambda: client.pipelines.start_update(pipeline_id))


def _words(update: UpdateInfo | None) -> str:
    if update is None:
        return "no update yet"
    return f"update {update.update_id} is {update.state.value if update.state else 'unknown'}"


def _reason(client: WorkspaceClient, update: UpdateInfo) -> str:
    """What the pipeline says of an update that did not succeed."""
    pipeline_id = str(update.pipeline_id)
    found = client.pipelines.list_pipeline_events(pipeline_id, filter="level='ERROR'")
    for event in islice(found, EVENTS):
        if event.origin and event.origin.update_id == update.update_id:
            causes = [each.message for each in (event.error and event.error.exceptions) or []]
            said = next((cause for cause in causes if cause), event.message)
            if said:
                return said.splitlines()[0]
    return client.pipelines.get(pipeline_id).cause or "no reason given"
