"""The workspace that publishes and serves: Databricks, or the embedded one, started when asked."""

from __future__ import annotations

from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import requests

from databricks_steps.errors import RefusedError, SettingsError, reason
from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets.deployment.retries import patiently
from taxi_assets.resources.targets import target

if TYPE_CHECKING:
    import dagster as dg
    from databricks.sdk import WorkspaceClient

PATIENCE = 30  # seconds in which a workspace that is busy or restarts is asked again
ANSWER_SECONDS = 150  # Databricks ends a request itself after 120 seconds
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
        from taxi_assets.deployment.online_store import workspace_client

        if self.settings.platform == DATABRICKS:
            return _of_the_environment(PATIENCE, ANSWER_SECONDS)
        return workspace_client(self.settings.host, self._token())

    @property
    def host(self) -> str:
        """The address of the workspace, without a path."""
        if self.settings.platform == DATABRICKS:
            return str(self.client.config.host)
        return self.settings.host

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The JSON that the workspace's REST API answers to one request.

        On this machine by plain HTTP: to import the SDK takes longer than any answer.

        Raises:
            RefusedError: the workspace refuses; `status` says how, the message why.
        """
        if self.settings.platform == DATABRICKS:
            return _by_sdk(self.client, method, path, body)
        headers = {"Authorization": f"Bearer {self._token()}"}
        try:
            with requests.Session() as session:
                session.trust_env = False  # a proxy could not reach loopback
                answer = session.request(
                    method, self.host + path, json=body, headers=headers, timeout=PATIENCE
                )
            found = answer.json()
        except (OSError, ValueError) as error:  # those of requests are both
            raise _refused(0, path, reason(error)) from error
        if not answer.ok:
            raise _refused(answer.status_code, path, str(found.get("message")))
        return found

    def _token(self) -> str:
        """The emulator's, which then runs: it runs the steps that it has launched."""
        if target().launched:
            return self.settings.token_file.read_text(encoding="utf-8").strip()
        from taxi_assets.emulator import auth, process

        process.ensure_running(self.settings)
        return auth.token(self.settings.token_file)

    def endpoint(self) -> dict[str, Any] | None:
        """The serving endpoint as the API describes it; None when there is none."""
        try:
            found: dict[str, Any] = self.call(
                "GET", f"/api/2.0/serving-endpoints/{self.settings.endpoint}"
            )
        except RefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return found

    def online_rows(self, online_table: str) -> dict[str, Any]:
        """Location → row of an online table, which the embedded store alone tells; without the
        table there is none."""
        try:
            answer = self.call("GET", f"/api/2.0/taxi/online-tables/{online_table}/rows")
        except RefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return {}
            raise
        rows: dict[str, Any] = answer["rows"]
        return rows

    def answer(self, payload: dict[str, Any]) -> dict[str, Any]:
        """What the serving endpoint answers to a payload."""
        if self.settings.platform == DATABRICKS:  # it may have to wake
            from taxi_assets.deployment import endpoint

            return endpoint.answer(self.client, self.settings, payload)
        path = f"/serving-endpoints/{self.settings.endpoint}/invocations"
        found: dict[str, Any] = self.call("POST", path, payload)
        return found

    def user(self) -> str:
        """Who asks, as Databricks' workspace knows them; asked before anything that takes long.

        Raises:
            SettingsError: it does not answer, or not to these credentials.
        """
        from databricks.sdk.errors.base import DatabricksError

        client = _of_the_environment(AT_FIRST, 2 * AT_FIRST)
        try:
            return client.current_user.me().user_name or ""
        except (DatabricksError, OSError, TimeoutError) as error:
            raise SettingsError(
                "The workspace must answer to these credentials",
                f"{client.config.host}: {reason(error)}",
                "Correct DATABRICKS_HOST and the credentials: docs/databricks.md",
            ) from error


def _by_sdk(client: WorkspaceClient, method: str, path: str, body: object) -> Any:
    from databricks.sdk.errors import NotFound

    try:
        return patiently(lambda: client.api_client.do(method, path, body=body))
    except OSError as error:  # those of the SDK and of requests all are
        status = HTTPStatus.NOT_FOUND if isinstance(error, NotFound) else HTTPStatus.BAD_REQUEST
        raise _refused(status, path, reason(error)) from error


def _refused(status: int, path: str, why: str) -> RefusedError:
    error = RefusedError("The workspace must answer", f"{path}: {why}", "Correct the request")
    error.status = status
    return error


def _of_the_environment(patience: int, answer_seconds: int) -> WorkspaceClient:
    """A client by Databricks' unified authentication: variables, a profile, or the cluster's.

    It waits `answer_seconds` for an answer, and asks again for `patience` seconds.
    """
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config

    try:
        return WorkspaceClient(
            config=Config(http_timeout_seconds=answer_seconds, retry_timeout_seconds=patience)
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
