"""Online tables by the Databricks SDK alone: the same calls on a laptop and on Databricks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from databricks_steps import schemas
from databricks_steps.errors import ServingError
from databricks_steps.settings import LOOPBACK, Settings
from taxi_assets.deployment import pipeline_sync

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.ml import OnlineStore

CAPACITY = "CU_1"
TABLES = (schemas.PICKUP_FEATURES, schemas.DROPOFF_FEATURES)  # what is published
STORE_SECONDS = 1800.0


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
    from databricks.sdk.errors.base import DatabricksError

    found: dict[str, tuple[str, ...] | None] = {}
    for table in TABLES:
        name = online_table_name(settings, table)
        try:
            columns = client.tables.get(name).columns or []
            found[settings.table(table.name)] = tuple(c.name for c in columns if c.name)
        except NotFound:
            found[settings.table(table.name)] = None
        except DatabricksError as error:
            raise ServingError(
                "The workspace must tell what is published", f"{name}: {error}", "Start it"
            ) from error
    return found


def ensure_online_store(client: WorkspaceClient, settings: Settings) -> OnlineStore:
    """The project's online store, made when missing, once it can be used.

    Raises:
        ServingError: it does not become available.
    """
    from databricks.sdk.errors import AlreadyExists, NotFound, ResourceAlreadyExists
    from databricks.sdk.service.ml import OnlineStore, OnlineStoreState

    name = settings.online_store
    try:
        store = client.feature_store.get_online_store(name)
    except NotFound:
        try:
            store = client.feature_store.create_online_store(OnlineStore(name, CAPACITY))
        except (AlreadyExists, ResourceAlreadyExists):  # made by someone else in between
            store = client.feature_store.get_online_store(name)
    deadline = time.monotonic() + STORE_SECONDS
    while store.state is not OnlineStoreState.AVAILABLE:
        if time.monotonic() > deadline or store.state is OnlineStoreState.DELETING:
            raise ServingError(
                "The online store must become available", f"{name}: {store.state}", "Look at it"
            )
        time.sleep(5)
        store = client.feature_store.get_online_store(name)
    return store


def publish(
    client: WorkspaceClient,
    settings: Settings,
    table: schemas.Table,
    sync_seconds: float = pipeline_sync.SYNC_SECONDS,
) -> PublishResult:
    """Bring the online table of a feature table up to date, and wait until it is; safe to repeat.

    Raises:
        ServingError: the workspace refuses, or the sync fails or takes longer than `sync_seconds`;
            the message says why.
    """
    from databricks.sdk.errors.base import DatabricksError
    from databricks.sdk.service.ml import PublishSpec, PublishSpecPublishMode

    started, source = time.perf_counter(), settings.table(table.name)
    name = online_table_name(settings, table)
    spec = PublishSpec(settings.online_store, name, PublishSpecPublishMode.TRIGGERED)
    try:
        before = pipeline_sync.last_update(client, name)
        answer = client.feature_store.publish_table(source, spec)
    except DatabricksError as error:
        raise ServingError(
            "A feature table must be published", f"{source}: {error}", "Materialize it first"
        ) from error
    if not answer.pipeline_id:
        raise ServingError(
            "A publish must name the pipeline that syncs", f"{name}: none", "Publish again"
        )
    pipeline_sync.await_sync(client, answer.pipeline_id, before, sync_seconds)
    return PublishResult(
        source,
        answer.online_table_name or name,
        answer.pipeline_id,
        time.perf_counter() - started,
    )
