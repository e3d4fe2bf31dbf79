"""The way from a worker to the manager: requests that are no queries are passed on as they are."""

from __future__ import annotations

import asyncio
import http.client
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from databricks_steps.settings import LOOPBACK
from databricks_steps.workspace import auth, errors

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

THREADS = 16
SECONDS = 200.0  # a publish or the first fetch of a model may take its time
_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"host"})

Headers = list[tuple[bytes, bytes]]


class Forward:
    """ASGI application that asks the manager on its own port and answers with what it says."""

    def __init__(self, port: int) -> None:
        self._port = port
        # Threads of its own: those that wait for a publish must not keep queries from theirs.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="forward")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            body = await auth.read_body(receive, auth.limit(scope["path"]))
            status, headers, told = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._ask, scope, body
            )
        except errors.ApiError as error:
            await errors.response(error.code, str(error))(scope, receive, send)
            return
        except ConnectionError:
            return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": told})

    def _ask(self, scope: Scope, body: bytes) -> tuple[int, Headers, bytes]:
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        sent = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name not in _HOP
        }
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=SECONDS)
        try:
            connection.request(scope["method"], target, body, sent)
            answer = connection.getresponse()
            told = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise errors.ApiError(
                "TEMPORARILY_UNAVAILABLE", "The workspace must be up", error, "Try again"
            ) from error
        finally:
            connection.close()
        kept = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in answer.getheaders()
            if name.lower() != "date" and name.lower().encode("latin-1") not in _HOP
        ]
        size = answer.getheader("content-length") if scope["method"] == "HEAD" else None
        length = (size or str(len(told))).encode()
        return answer.status, [*kept, (b"content-length", length)], told
