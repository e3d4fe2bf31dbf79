"""Endpoints as a worker serves them: what the manager has loaded is loaded here, too.

A worker changes nothing. It looks at the saved endpoints twenty times a second, loads what they
say beside what it serves, swaps, and writes down how far it is, which the manager waits for.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from databricks_steps.errors import TaxiError
from databricks_steps.settings import Settings
from databricks_steps.workspace import models
from databricks_steps.workspace.endpoints import KIND, Endpoint, mark, missing, payload_table
from databricks_steps.workspace.online_tables import OnlineTables
from databricks_steps.workspace.served import Document, load
from databricks_steps.workspace.state import State

_LOG = logging.getLogger(__name__)
LOOK_SECONDS = 0.05
RETRY_SECONDS = 2.0


class Followed:
    """The endpoints of the workspace, kept in step with the manager's."""

    def __init__(self, settings: Settings, state: State, tables: OnlineTables) -> None:
        self._settings, self._state, self._tables = settings, state, tables
        self._endpoints: dict[str, Endpoint] = {}
        self._marks: dict[str, str] = {}  # endpoint → which configuration of it is served
        self._seen: int | None = None
        self._again = float("inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    def find(self, name: str) -> Endpoint:
        """Raises ApiError when there is none."""
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise missing(name)
        return endpoint

    def start(self) -> None:
        """Load what is served now, then follow."""
        self._look_once()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._look_once()

    def _look_once(self) -> None:
        """Look when something was written since the last look, or when a failure is due again."""
        try:
            now = self._state.changes()
            if now != self._seen or time.monotonic() > self._again:
                self._again = float("inf")
                self._look()
                self._seen = now  # as of before the look: what came since makes another one
        except Exception:
            self._again = time.monotonic() + RETRY_SECONDS
            _LOG.exception("the endpoints could not be read; looking again")

    def _look(self) -> None:
        documents = self._state.all(KIND)
        for name in self._endpoints.keys() - documents.keys():
            del self._endpoints[name]
            self._marks.pop(name, None)
        for name, document in documents.items():
            self._follow(name, document)

    def _follow(self, name: str, document: Document) -> None:
        config = wanted(document)
        endpoint = self._endpoints.get(name) or Endpoint(document)
        endpoint.document, endpoint.payload_table = document, payload_table(document)
        self._endpoints[name] = endpoint
        if config is None:
            endpoint.serving = None
            return
        wanted_now = mark(document, config)
        if self._marks.get(name) == wanted_now:
            return
        failure = None
        try:
            endpoint.serving = load(config, self._folder, self._tables)
            self._marks[name] = wanted_now
        except Exception as error:  # the manager must hear of whatever it is
            failure = str(error) or type(error).__name__
            self._again = time.monotonic() + RETRY_SECONDS
            expected = isinstance(error, TaxiError)
            _LOG.warning("endpoint %s: %s", name, error, exc_info=not expected)
        self._state.follow(os.getpid(), name, wanted_now, failure)

    def _folder(self, name: str, version: str) -> Path:
        return models.folder(self._settings, name, version)


def wanted(document: Document) -> Document | None:
    """The configuration a worker serves: the pending one from when the manager has loaded it."""
    pending: Document | None = document.get("pending_config")
    active: Document | None = document["config"]
    if pending is not None and document.get("loaded") == pending["config_version"]:
        return pending
    return active
