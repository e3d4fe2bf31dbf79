"""Dagster's UI for the browsers of this machine: what pages of other origins ask is refused.

Dagster's webserver executes mutations that come by GET, as `text/plain`, and under any Host and
Origin, so every page that a browser shows could launch runs. `taxi-assets dev` starts it by this
module, with a middleware before it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from dagster_webserver import app, cli
from dagster_webserver.webserver import DagsterWebserver
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from databricks_steps.settings import LOOPBACK, inherited
from taxi_assets.dagster_process import replace
from taxi_assets.resources.targets import UI

HOSTS = {LOOPBACK, "localhost", "::1"}
GRAPHQL = "/graphql"
JSON = "application/json"


class SameOrigin:
    """ASGI middleware: a request names this server as its Host and, if any, as its Origin.

    GraphQL is asked by POST as JSON alone, which a browser sends to no other origin unasked.
    `TAXI_UI` may add the host of a proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._hosts = HOSTS | {urlsplit(inherited().get(UI) or "").hostname or LOOPBACK}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = None if scope["type"] == "lifespan" else self._refused(scope)
        if refused is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refused[1]})
        else:
            status, message = refused
            await PlainTextResponse(f"{message}\n", status)(scope, receive, send)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        """Status and message of a refusal; None where the request may go on."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if urlsplit(f"//{host}").hostname not in self._hosts:
            return 403, f"Host is {host}, not this server: ask by its address, or set {UI}"
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, f"Origin is {origin}, not {host}: other pages may not ask"
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith(GRAPHQL):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if scope["method"] == "POST" and kind != JSON:
                return 415, f"Content-Type is {kind or 'missing'}: send GraphQL as {JSON}"
            if scope["method"] != "POST" and "query" in Request(scope).query_params:
                return 405, f"Method is {scope['method']}: send GraphQL by POST as {JSON}"
        return None


class Webserver(DagsterWebserver[Any, Any]):
    """Dagster's own, behind `SameOrigin`."""

    def build_middleware(self) -> list[Middleware]:
        return [Middleware(SameOrigin), *super().build_middleware()]


if __name__ == "__main__":
    replace(app, "DagsterWebserver", Webserver)
    cli.cli()
