"""The cluster that the launched steps of a run share: made by the first, ended with the run.

One that an orchestrator leaves behind when it is killed ends by itself, once it has been idle.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
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
        self._holders, self._id = 0, ""
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
            self._client = client
            self._id = patiently(lambda: _named(client, spec["cluster_name"]) or _new(client, spec))
        return self._id

    def _end(self) -> None:
        number, client, self._id, self._client = self._id, self._client, "", None
        if not number or client is None:
            return
        from databricks.sdk.errors.base import DatabricksError  # a run without clusters needs none

        try:
            client.clusters.delete(number)
        except (DatabricksError, OSError, TimeoutError) as error:
            _LOG.warning("cluster %s ends when it is idle: %s", number, reason(error))


def _named(client: WorkspaceClient, name: str) -> str:
    for each in client.clusters.list():
        if each.cluster_name == name and each.state and each.state.value not in _OVER:
            return str(each.cluster_id)
    return ""


def _new(client: WorkspaceClient, spec: dict[str, Any]) -> str:
    made: Any = client.api_client.do("POST", "/api/2.1/clusters/create", body=spec)
    return str(made["cluster_id"])


SHARED = RunCluster()
