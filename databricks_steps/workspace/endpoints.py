"""Serving endpoints at work: loading model versions beside those that serve, swapping, routing.

What serves is one immutable value behind one attribute, so that every request is answered whole by
either the old versions or the new ones.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from databricks_steps import schemas
from databricks_steps.errors import ModelError, TaxiError
from databricks_steps.serving.feature_spec import FeatureSpec
from databricks_steps.serving.scorer import Scorer
from databricks_steps.settings import Settings
from databricks_steps.workspace import errors, models
from databricks_steps.workspace.online_tables import Lookup, OnlineTables, lookups
from databricks_steps.workspace.state import State

_LOG = logging.getLogger(__name__)
KIND = "endpoint"
Document = dict[str, Any]


@dataclass(frozen=True)
class ServedModel:
    """One loaded model version behind one name of the endpoint."""

    name: str
    entity_id: str
    entity_name: str
    entity_version: str
    scorer: Scorer
    lookups: tuple[Lookup, ...]
    order: tuple[int, ...]  # the model's inputs among the request's and the lookups' features


@dataclass(frozen=True)
class Serving:
    """What answers requests: the loaded models and the first percentage above each one's share."""

    models: tuple[ServedModel, ...]
    bounds: tuple[int, ...]

    def route(self, request_id: str) -> ServedModel:
        """The model for a request; the same id gets the same one."""
        if len(self.models) == 1:
            return self.models[0]
        place = zlib.crc32(request_id.encode()) % 100
        return next(m for m, bound in zip(self.models, self.bounds, strict=True) if place < bound)


@dataclass
class Endpoint:
    """An endpoint: its document, as saved, and what serves right now."""

    document: Document
    serving: Serving | None = None
    payload_table: str | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)


class Endpoints:
    """All endpoints of the workspace; changes are saved before they are answered."""

    def __init__(self, settings: Settings, state: State, tables: OnlineTables) -> None:
        self._settings, self._state, self._tables = settings, state, tables
        self._registry = models.Registry(settings)
        self._endpoints: dict[str, Endpoint] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> Endpoint:
        """Raises ApiError when there is none."""
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise errors.missing("Serving endpoint", name[:120], "Create it first")
        return endpoint

    def all(self) -> list[Endpoint]:
        return [self._endpoints[name] for name in sorted(self._endpoints)]

    def restore(self) -> None:
        """Serve again what was served when the workspace stopped, and go on with what was begun."""
        for name, document in self._state.all(KIND).items():
            endpoint = Endpoint(document, payload_table=payload_table(document))
            self._endpoints[name] = endpoint
            if document["config"] is not None:
                try:
                    endpoint.serving = self._load(document["config"], self._folder)
                except TaxiError as error:
                    _LOG.warning("endpoint %s: %s", name, error)
                    document["pending_config"] = (
                        document.get("pending_config") or document["config"]
                    )
            if document.get("pending_config"):
                self._start(endpoint)

    def warm(self) -> None:
        """A model version will be asked for soon."""
        self._registry.warm()

    def close(self) -> None:
        self._registry.close()

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
            self._begin(endpoint, config)
        return endpoint

    def update(self, name: str, config: Document) -> Endpoint:
        endpoint = self.find(name)
        with endpoint.lock:
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
            edit(endpoint.document)
            endpoint.payload_table = payload_table(endpoint.document)
            self._save(endpoint)
        return endpoint.document

    def delete(self, name: str) -> None:
        with self._lock:
            endpoint = self.find(name)
            with endpoint.lock:
                endpoint.serving = None
                del self._endpoints[name]
                self._state.drop(KIND, name)

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
        self._start(endpoint)

    def _start(self, endpoint: Endpoint) -> None:
        threading.Thread(
            target=self._swap, args=(endpoint,), name="load", daemon=True
        ).start()  # fmt: skip

    def _swap(self, endpoint: Endpoint) -> None:
        """Load the pending configuration beside what serves, then let it take over."""
        pending = endpoint.document["pending_config"]
        try:
            loaded = self._load(pending, self._registry.fetch)
        except Exception as error:  # whatever breaks a load must not break what serves
            expected = isinstance(error, TaxiError)
            message = str(error) if expected else "The model could not be loaded; see the log"
            _LOG.warning("endpoint %s: %s", endpoint.document["name"], error, exc_info=not expected)
            self._finish(endpoint, {"failure": message, "failed_config": pending})
            return
        endpoint.serving = loaded
        self._finish(endpoint, {"failure": None, "config": pending})

    def _finish(self, endpoint: Endpoint, changes: Document) -> None:
        with endpoint.lock:
            endpoint.document |= changes | {"pending_config": None, "updated": _now()}
            if self._endpoints.get(endpoint.document["name"]) is endpoint:
                self._save(endpoint)

    def _save(self, endpoint: Endpoint) -> None:
        self._state.put(KIND, endpoint.document["name"], endpoint.document)

    def _folder(self, name: str, version: str) -> Path:
        return models.folder(self._settings, name, version)

    def _load(self, config: Document, find: Callable[[str, str], Path]) -> Serving:
        loaded: dict[str, ServedModel] = {}
        for entity in config["served_entities"]:
            name, version = entity["entity_name"], entity["entity_version"]
            scorer = Scorer.load(find(name, version))
            loaded[entity["name"]] = ServedModel(
                entity["name"],
                entity["id"],
                name,
                version,
                scorer,
                lookups(self._tables, scorer.spec.lookups),
                _order(scorer.spec),
            )
        routes = [r for r in config["traffic_config"]["routes"] if r["traffic_percentage"]]
        bounds = [0]
        for route in routes:
            bounds.append(bounds[-1] + route["traffic_percentage"])
        return Serving(
            tuple(loaded[route["served_model_name"]] for route in routes), tuple(bounds[1:])
        )


def _order(spec: FeatureSpec) -> tuple[int, ...]:
    names = [column.name for column in schemas.REQUEST_FEATURES]
    for lookup in spec.lookups:
        names += lookup.features
    unknown = set(spec.inputs) - set(names)
    if unknown:
        raise ModelError(
            "Every input of a served model is looked up or requested",
            sorted(unknown),
            "Train and log it again",
        )
    return tuple(names.index(name) for name in spec.inputs)


def payload_table(document: Document) -> str | None:
    """Three-level name of the table payloads are captured in; None when they are not."""
    table = (document.get("ai_gateway") or {}).get("inference_table_config") or {}
    if not table.get("enabled"):
        return None
    return f"{table['catalog_name']}.{table['schema_name']}.{table['table_name_prefix']}_payload"


def _now() -> int:
    return int(time.time() * 1000)
