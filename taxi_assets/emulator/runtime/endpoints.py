"""Serving endpoints at work: loading model versions beside those that serve, swapping.

What serves is one immutable value behind one attribute, so that every request is answered whole by
either the old version or the new one.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from databricks_steps.errors import TaxiError
from databricks_steps.settings import Settings
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime import metrics, served_entities, served_model
from taxi_assets.emulator.runtime.online_tables import OnlineTables
from taxi_assets.emulator.runtime.served_model import Document, ServedModel, load
from taxi_assets.emulator.runtime.state import State

_LOG = logging.getLogger(__name__)
KIND = "endpoint"
LOADS = 4
EVENTS = 500  # lines of an endpoint's log


@dataclass
class Endpoint:
    """An endpoint: its document, as saved, and what serves right now."""

    document: Document
    serving: ServedModel | None = None
    payload_table: str | None = None
    events: deque[str] = field(default_factory=lambda: deque(maxlen=EVENTS))
    lock: threading.RLock = field(default_factory=threading.RLock)

    def log(self, event: str) -> None:
        """Add a line to what people read as the endpoint's log."""
        self.events.append(
            f"{datetime.now(timezone.utc).isoformat(timespec='milliseconds')} {event}"
        )


class Endpoints:
    """All endpoints of the workspace; changes are saved before they are answered."""

    def __init__(self, settings: Settings, state: State, tables: OnlineTables) -> None:
        self._settings, self._state, self._tables = settings, state, tables
        self._registry = served_model.Registry(settings)
        self._endpoints: dict[str, Endpoint] = {}
        self._lock = threading.Lock()
        self._closing = False
        # A few at a time: whoever makes a thousand endpoints must not make a thousand threads.
        self._loads = ThreadPoolExecutor(LOADS, thread_name_prefix="load")

    def find(self, name: str) -> Endpoint:
        """Raises ApiError when there is none."""
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise missing(name)
        return endpoint

    def all(self) -> list[Endpoint]:
        return [self._endpoints[name] for name in sorted(self._endpoints)]

    def figures(self, name: str) -> Document:
        """What an endpoint has answered; raises ApiError when there is none."""
        self.find(name)
        return self._state.get(metrics.KIND, name) or metrics.count(None, metrics.Tally())

    def restore(self) -> None:
        """Serve again what was served when the workspace stopped, and go on with what was begun."""
        for name, document in self._state.all(KIND).items():
            endpoint = Endpoint(document, payload_table=payload_table(document))
            self._endpoints[name] = endpoint
            if document["config"] is not None:
                served_entities.remember(self._state, document, document["config"])
                try:
                    endpoint.serving = load(document["config"], self._folder, self._tables)
                except TaxiError as error:
                    _LOG.warning("endpoint %s: %s", name, error)
                    endpoint.log(f"not served after the start: {error}")
                    document["config_version"] += 1  # a new try
                    pending = document.get("pending_config") or document["config"]
                    document["pending_config"] = pending | {
                        "config_version": document["config_version"]
                    }
            if document.get("pending_config"):
                self._start(endpoint)

    def close(self) -> None:
        """End what is being loaded; it stays pending for the next start."""
        self._closing = True
        self._loads.shutdown(wait=True, cancel_futures=True)

    def create(self, name: str, document: Document, config: Document) -> Endpoint:
        with self._lock:
            if name in self._endpoints:
                raise errors.ApiError(
                    "RESOURCE_ALREADY_EXISTS",
                    "A serving endpoint's name is free",
                    f"{name} exists",
                    "Update its configuration instead",
                )
            document |= {"id": uuid.uuid4().hex, "name": name, "config": None, "config_version": 0}
            endpoint = Endpoint(document, payload_table=payload_table(document))
            self._endpoints[name] = endpoint
            self._state.drop(metrics.KIND, name)  # what came late of one of the same name
            self._begin(endpoint, config)
        return endpoint

    def update(self, name: str, config: Document) -> Endpoint:
        endpoint = self.find(name)
        with endpoint.lock:
            self._require(endpoint)
            if endpoint.document.get("pending_config"):
                raise errors.ApiError(
                    "RESOURCE_CONFLICT",
                    "One update at a time",
                    f"{name} is being updated",
                    "Wait until its state is NOT_UPDATING",
                )
            self._begin(endpoint, config)
        return endpoint

    def change(self, name: str, edit: Callable[[Document], None]) -> Document:
        """Edit and save a document (tags, AI gateway) without touching what serves."""
        endpoint = self.find(name)
        with endpoint.lock:
            self._require(endpoint)
            edit(endpoint.document)
            endpoint.payload_table = payload_table(endpoint.document)
            self._save(endpoint)
        return endpoint.document

    def _require(self, endpoint: Endpoint) -> None:
        """Whoever waited for the lock may find the endpoint deleted."""
        name = endpoint.document["name"]
        if self._endpoints.get(name) is not endpoint:
            raise missing(name)

    def delete(self, name: str) -> None:
        with self._lock:
            endpoint = self.find(name)
            with endpoint.lock:
                endpoint.serving = None
                del self._endpoints[name]
                self._state.drop(KIND, name)
                self._state.drop(metrics.KIND, name)

    def _begin(self, endpoint: Endpoint, config: Document) -> None:
        document = endpoint.document
        document["config_version"] += 1
        now = _now()
        entities = [
            entity | {"id": uuid.uuid4().hex, "creation_timestamp": now}
            for entity in config["served_entities"]
        ]
        document |= {"updated": now, "failure": None, "failed_config": None}
        document["pending_config"] = config | {
            "served_entities": entities,
            "config_version": document["config_version"],
            "start_time": now,
        }
        self._save(endpoint)
        served_entities.remember(self._state, document, document["pending_config"])
        endpoint.log(f"update {document['config_version']} begins: {_named(config)}")
        self._start(endpoint)

    def _start(self, endpoint: Endpoint) -> None:
        self._loads.submit(self._swap, endpoint)

    def _swap(self, endpoint: Endpoint) -> None:
        """Load the pending configuration beside what serves, then let it take over."""
        pending, before = endpoint.document["pending_config"], endpoint.serving
        try:
            endpoint.serving = load(pending, self._registry.fetch, self._tables)
        except Exception as error:  # whatever breaks a load must not break what serves
            expected = isinstance(error, TaxiError)
            message = str(error) if expected else "The model could not be loaded; see the log"
            _LOG.warning("endpoint %s: %s", endpoint.document["name"], error, exc_info=not expected)
            if self._closing:
                return  # it stays pending, and the next start goes on with it
            endpoint.serving = before
            self._finish(endpoint, {"failure": message, "failed_config": pending})
            endpoint.log(f"update {pending['config_version']} failed: {message}")
            return
        self._finish(endpoint, {"failure": None, "config": pending})
        endpoint.log(f"update {pending['config_version']} serves: {_named(pending)}")
        (entity,) = pending["served_entities"]
        self._registry.prune(entity["entity_name"], self._wanted)

    def _wanted(self, model: str) -> set[str]:
        """The versions of a model that an endpoint serves, or is about to."""
        return {
            entity["entity_version"]
            for endpoint in list(self._endpoints.values())
            # In this order: what is pending becomes what serves meanwhile, and is seen twice.
            for config in (endpoint.document.get("pending_config"), endpoint.document["config"])
            for entity in (config or {}).get("served_entities", ())
            if entity["entity_name"] == model
        }

    def _finish(self, endpoint: Endpoint, changes: Document) -> None:
        with endpoint.lock:
            settled = {"pending_config": None, "updated": _now()}
            endpoint.document |= changes | settled
            self._save(endpoint)

    def _save(self, endpoint: Endpoint) -> None:
        name = endpoint.document["name"]
        if self._endpoints.get(name) is endpoint:  # one that was deleted meanwhile stays away
            self._state.put(KIND, name, endpoint.document)

    def _folder(self, name: str, version: str) -> Path:
        return served_model.folder(self._settings, name, version)


def missing(name: str) -> errors.ApiError:
    """There is no endpoint of that name."""
    return errors.missing("Serving endpoint", name[:120], "Create it first")


def _named(config: Document) -> str:
    (entity,) = config["served_entities"]
    return f"{entity['entity_name']} version {entity['entity_version']} as {entity['name']}"


def payload_table(document: Document) -> str | None:
    """Three-level name of the table payloads are captured in; None when they are not."""
    table = (document.get("ai_gateway") or {}).get("inference_table_config") or {}
    if not table.get("enabled"):
        return None
    return f"{table['catalog_name']}.{table['schema_name']}.{table['table_name_prefix']}_payload"


def _now() -> int:
    return int(time.time() * 1000)
