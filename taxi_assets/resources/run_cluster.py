"""The cluster that the launched steps of a run share: made by the first, ended with the run.

One that an orchestrator leaves behind when it is killed ends by itself, once it has been idle.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from databricks_steps.errors import reason
from taxi_assets.deployment.retries import patiently

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

_LOG = logging.getLogger(__name__)
_OVER = ("TERMINATING", "TERMINATED", "ERROR")


class RunCluster:
    """One cluster for as long as somebody in this process holds it."""

    def __init__(self) -> None:
        self._holders, self._id, self._name = 0, "", ""
        self._client: WorkspaceClient | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside the cluster lives on; the outermost block ends it, if a step made one."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._end()

    def made(self, client: WorkspaceClient, spec: dict[str, Any]) -> str:
        """The cluster's id; of one with this name that is there where the answer was lost."""
        if not self._id:
            self._client, self._name = client, spec["cluster_name"]
            self._id = patiently(lambda: next(_named(client, self._name), "") or _new(client, spec))
        return self._id

    def _end(self) -> None:
        number, client, self._id, self._client = self._id, self._client, "", None
        if client is None:
            return
        try:
            # The SDK sends a request again where its answer was lost: it may have made another.
            for each in filter(None, chain([number], _named(client, self._name))):
                client.clusters.delete(each)
        except OSError as error:  # those of the SDK and of requests all are
            _LOG.warning("cluster %s ends when it is idle: %s", self._name, reason(error))


def _named(client: WorkspaceClient, name: str) -> Iterator[str]:
    """The clusters of a name that live."""
    for each in client.clusters.list():
        if each.cluster_name == name and each.state and each.state.value not in _OVER:
            yield str(each.cluster_id)


def _new(client: WorkspaceClient, spec: dict[str, Any]) -> str:
    made: Any = client.api_client.do("POST", "/api/2.1/clusters/create", body=spec)
    return str(made["cluster_id"])


SHARED = RunCluster()
