"""Waiting for the pipeline that syncs an online table: a publish answers before the rows are there.

By the Databricks SDK alone, on a laptop and on Databricks.
"""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from databricks_steps.errors import ServingError

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.pipelines import UpdateInfo

SYNC_SECONDS = 1800.0
SETTLE_SECONDS = 15.0  # in which a publish starts its update; later this side starts one
LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.1, 10.0
EVENTS = 50  # of a failed update that are looked through for its reason


def last_update(client: WorkspaceClient, online_table: str) -> str | None:
    """The id of the newest update of an online table; None where it has none.

    Asked before a publish, it tells the update that the publish starts from those of before.
    """
    from databricks.sdk.errors import NotFound

    try:
        pipeline_id = client.tables.get(online_table).pipeline_id
        found = _newest(client, pipeline_id) if pipeline_id else None
    except NotFound:
        return None
    return found.update_id if found else None


def await_sync(
    client: WorkspaceClient, pipeline_id: str, before: str | None, seconds: float = SYNC_SECONDS
) -> None:
    """Wait until a pipeline has ended an update other than `before`, or keeps running for good.

    Raises:
        ServingError: the update failed, was cancelled or takes longer than `seconds`, or nobody
            knows the pipeline; the message holds its own reason.
    """
    from databricks.sdk.errors.base import DatabricksError

    try:
        _await_sync(client, pipeline_id, before, seconds)
    except DatabricksError as error:
        raise ServingError(
            "The pipeline of an online table must tell how its sync goes",
            f"{pipeline_id}: {error}",
            "See that these credentials may view it, then publish again",
        ) from error


def _await_sync(
    client: WorkspaceClient, pipeline_id: str, before: str | None, seconds: float
) -> None:
    started, pause = time.monotonic(), LOOK_SECONDS
    while True:
        newest, waited = _newest(client, pipeline_id), time.monotonic() - started
        if newest is not None and newest.update_id != before:
            if _in_sync(client, newest):
                return
        elif newest is not None and waited > SETTLE_SECONDS:
            _start(client, pipeline_id)
        if waited > seconds:
            raise ServingError(
                f"The sync of an online table must end within {seconds:,g} seconds",
                f"pipeline {pipeline_id}, {_words(newest)}",
                "Look at the pipeline in the workspace, then publish again",
            )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_LOOK_SECONDS)


def _newest(client: WorkspaceClient, pipeline_id: str) -> UpdateInfo | None:
    updates = client.pipelines.list_updates(pipeline_id, max_results=1).updates
    return updates[0] if updates else None


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
    spec = client.pipelines.get(str(update.pipeline_id)).spec  # a continuous one never completes
    return bool(spec and spec.continuous)


def _start(client: WorkspaceClient, pipeline_id: str) -> None:
    """Start an update: not every publish of a table that is online already does it by itself."""
    from databricks.sdk.errors import ResourceConflict

    with suppress(ResourceConflict):  # one is under way after all
        client.pipelines.start_update(pipeline_id)


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
