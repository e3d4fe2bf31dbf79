"""The workspace that publishes and serves: Databricks, or the embedded one, started when asked."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from databricks_steps.errors import SettingsError, reason
from databricks_steps.settings import DATABRICKS, Settings

if TYPE_CHECKING:
    import dagster as dg
    from databricks.sdk import WorkspaceClient

PATIENCE = 30  # seconds in which a workspace that is busy or restarts is asked again
AT_FIRST = 10  # where it is not known yet whether it is there at all: somebody waits


class Workspace:
    """The target's workspace, by way of the official SDK alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def client(self) -> WorkspaceClient:
        """A client of the workspace; starts the embedded one when it is not running.

        Raises:
            SettingsError: on Databricks, no host or no credentials are configured.
        """
        from databricks_steps.serving.online import workspace_client

        if self.settings.platform == DATABRICKS:
            return _of_the_environment(PATIENCE)
        from databricks_steps.workspace import auth, process

        host = process.ensure_running(self.settings)
        return workspace_client(host, auth.token(self.settings.token_file))

    def user(self) -> str:
        """Who asks, as Databricks' workspace knows them; asked before anything that takes long.

        Raises:
            SettingsError: it does not answer, or not to these credentials.
        """
        from databricks.sdk.errors.base import DatabricksError

        client = _of_the_environment(AT_FIRST)
        try:
            return client.current_user.me().user_name or ""
        except (DatabricksError, OSError, TimeoutError) as error:
            raise SettingsError(
                "The workspace must answer to these credentials",
                f"{client.config.host}: {reason(error)}",
                "Correct DATABRICKS_HOST and the credentials: docs/databricks.md",
            ) from error


def _of_the_environment(patience: int) -> WorkspaceClient:
    """A client by Databricks' unified authentication: variables, a profile, or the cluster's."""
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config

    try:
        return WorkspaceClient(
            config=Config(http_timeout_seconds=2 * patience, retry_timeout_seconds=patience)
        )
    except ValueError as error:  # the SDK's own word for a configuration it cannot use
        raise SettingsError(
            "A Databricks target needs a workspace and credentials",
            str(error).splitlines()[0],
            "Set DATABRICKS_HOST and DATABRICKS_TOKEN, or a profile: docs/databricks.md",
        ) from error


def workspace(settings: Settings) -> dg.ResourceDefinition:
    """The resource `workspace`."""
    import dagster as dg  # not for commands that only ask the workspace

    @dg.resource(description="Online tables and the serving endpoint, by the Databricks SDK")
    def client(_: dg.InitResourceContext) -> Workspace:
        return Workspace(settings)

    return client
