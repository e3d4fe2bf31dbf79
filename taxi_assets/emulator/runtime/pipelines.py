"""Pipelines that sync online tables: every publish is an update of one, kept and told.

Databricks syncs beside the call that asks for it. Here the call returns when the update has ended,
so that whoever then looks for its state finds it at once.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime import online_tables
from taxi_assets.emulator.runtime.state import State
from taxi_assets.emulator.runtime.warehouse import Warehouse

_LOG = logging.getLogger(__name__)
KIND = "pipeline"
KEPT = 20  # updates of each pipeline
RUNNING, COMPLETED, FAILED = "RUNNING", "COMPLETED", "FAILED"
BROKEN = "INTERNAL_ERROR"  # of the sync itself; every other code refuses to begin one
Document = dict[str, Any]


class Pipelines:
    """One pipeline for each online table; one of them syncs at a time.

    `published` is called when online tables have changed.
    """

    def __init__(self, state: State, warehouse: Warehouse, published: Callable[[], None]) -> None:
        self._state, self._warehouse, self._published = state, warehouse, published
        self.syncing = threading.Lock()  # the database would make them wait, too

    def restore(self) -> None:
        """Updates that were under way when the workspace ended have failed, and say so."""
        for document in self._state.all(KIND).values():
            newest = document["updates"][0]
            if newest["state"] == RUNNING:
                why = "The workspace ended while the update was under way"
                self._save(document, newest | {"state": FAILED, "message": why})

    def publish(self, source: str, online_name: str, store: str) -> Document:
        """Bring an online table up to date by an update of its pipeline; the pipeline.

        Raises:
            ApiError: it cannot be published. A sync that was begun and breaks is an update that
                failed: nothing is raised.
        """
        name = online_tables.full_name(online_name)
        pipeline_id = online_tables.pipeline_id(name)
        with self.syncing:
            before = self._state.get(KIND, pipeline_id)
            document = (before or {"updates": []}) | {
                "pipeline_id": pipeline_id,
                "source": source,
                "online_table": name,
                "store": store,
            }
            begun = {"update_id": str(uuid.uuid4()), "state": RUNNING, "created": _now()}
            document["updates"] = [begun, *document["updates"]][:KEPT]
            self._state.put(KIND, pipeline_id, document)
            try:
                return self._save(document, begun | self._sync(source, name, store))
            except errors.ApiError:  # refused: there never was an update
                if before is None:
                    self._state.drop(KIND, pipeline_id)
                else:
                    self._state.put(KIND, pipeline_id, before)
                raise

    def start(self, pipeline_id: str) -> Document:
        """One more update of a pipeline; the pipeline."""
        known = self.get(pipeline_id)
        return self.publish(known["source"], known["online_table"], known["store"])

    def get(self, pipeline_id: str) -> Document:
        """Raises ApiError when there is none."""
        document = self._state.get(KIND, pipeline_id)
        if document is None:
            raise errors.missing("Pipeline", pipeline_id[:120], "Publish a feature table")
        return document

    def forget(self, store: str) -> None:
        """Drop the pipelines of an online store that goes."""
        for pipeline_id, document in self._state.all(KIND).items():
            if document["store"] == store:
                self._state.drop(KIND, pipeline_id)

    def _sync(self, source: str, name: str, store: str) -> Document:
        """How it ended, with the reason where it failed."""
        try:
            self._warehouse.publish(source, name, store)
            self._published()
        except Exception as error:  # whatever breaks a sync is its update's reason to fail
            if isinstance(error, errors.ApiError) and error.code != BROKEN:
                raise
            _LOG.warning("the sync of %s failed: %s", name, error)
            return {"state": FAILED, "message": str(error)}
        return {"state": COMPLETED}

    def _save(self, document: Document, newest: Document) -> Document:
        document["updates"] = [newest, *document["updates"][1:]]
        self._state.put(KIND, document["pipeline_id"], document)
        return document


def shown(document: Document) -> Document:
    """A pipeline as the SDK's `GetPipelineResponse`."""
    catalog, schema, _ = document["online_table"].split(".")
    newest = document["updates"][0]
    idle = newest["state"] == COMPLETED
    return {
        "pipeline_id": document["pipeline_id"],
        "name": f"Sync of {document['online_table']}",
        "state": "IDLE" if idle else newest["state"],
        "cause": newest.get("message", ""),
        "creator_user_name": "token",
        "latest_updates": [
            {
                "update_id": each["update_id"],
                "state": each["state"],
                "creation_time": _text(each["created"]),
            }
            for each in document["updates"]
        ],
        "spec": {
            "id": document["pipeline_id"],
            "catalog": catalog,
            "schema": schema,
            "continuous": False,  # whatever was asked for: each publish syncs once
        },
    }


def shown_update(document: Document, update: Document) -> Document:
    """An update as the SDK's `UpdateInfo`."""
    return {
        "pipeline_id": document["pipeline_id"],
        "update_id": update["update_id"],
        "state": update["state"],
        "cause": "API_CALL",
        "creation_time": update["created"],
    }


def events(document: Document) -> list[Document]:
    """Why updates failed, as the SDK's `PipelineEvent`, the newest first."""
    return [
        {
            "id": update["update_id"],
            "event_type": "update_progress",
            "level": "ERROR",
            "message": f"Update {update['update_id'][:6]} is FAILED.",
            "timestamp": _text(update["created"]),
            "origin": {
                "pipeline_id": document["pipeline_id"],
                "update_id": update["update_id"],
            },
            "error": {"fatal": True, "exceptions": [{"message": update["message"]}]},
        }
        for update in document["updates"]
        if update["state"] == FAILED
    ]


def _now() -> int:
    return int(time.time() * 1000)


def _text(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).isoformat()
