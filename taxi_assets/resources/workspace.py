"""The workspace that publishes and serves: the embedded one, started when first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg

from databricks_steps.settings import Settings

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient


class Workspace:
    """The target's workspace, by way of the official SDK alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def client(self) -> WorkspaceClient:
        """A client of the workspace; starts the embedded one when it is not running."""
        from databricks_steps.serving.online import workspace_client
        from databricks_steps.workspace import auth, process

        host = process.ensure_running(self.settings)
        return workspace_client(host, auth.token(self.settings.token_file))


def workspace(settings: Settings) -> dg.ResourceDefinition:
    """The resource `workspace`."""

    @dg.resource(description="Online tables and the serving endpoint, by the Databricks SDK")
    def client(_: dg.InitResourceContext) -> Workspace:
        return Workspace(settings)

    return client
