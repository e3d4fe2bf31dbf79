"""The way of a query over HTTP: token, limits, body, answer, capture.

A plain ASGI application: this path carries no framework and no model classes.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from typing import TYPE_CHECKING, Protocol

from taxi_assets.emulator import auth, errors
from taxi_assets.emulator.runtime.capture import Capture, Taken
from taxi_assets.emulator.runtime.endpoints import Endpoint
from taxi_assets.emulator.runtime.predict import (
    Answer,
    Query,
    answer,
    answers,
    prepared,
    refused,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_PATH = re.compile(r"/serving-endpoints/([^/]+)/invocations")
INLINE_BYTES = 16 * 1024  # larger bodies are answered in a thread, so that small ones do not wait
TOGETHER = 16  # queries that are scored in one call: more gain little and hold up the loop
IN_FLIGHT = 256  # queries that are being read or answered before others are put off


class Finds(Protocol):
    """The endpoints of a process, as a query needs them."""

    def find(self, name: str) -> Endpoint:
        """Raises ApiError when there is none."""
        ...


class Invocations:
    """Answers queries of endpoints; every other path goes to the application behind it."""

    def __init__(self, app: ASGIApp, secret: str, endpoints: Finds, capture: Capture) -> None:
        self._app = app
        self._expected = f"Bearer {secret}".encode()
        self._endpoints = endpoints
        self._capture = capture
        self._in_flight = 0
        self._waiting: list[tuple[Query, asyncio.Future[Answer]]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/invocations"):
            await self._app(scope, receive, send)
            return
        path = _PATH.fullmatch(scope["path"])
        if path is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        unauthorized = auth.refusal(scope["headers"], self._expected)
        if unauthorized is not None:
            told = refused(*unauthorized, request_id=str(uuid.uuid4()))
        else:
            self._in_flight += 1
            try:
                told = await self._query(path[1], scope, receive, started)
            except ConnectionError:
                return
            finally:
                self._in_flight -= 1
        await _send(send, told)

    async def _query(self, name: str, scope: Scope, receive: Receive, started: float) -> Answer:
        request_id = str(uuid.uuid4())
        body: bytes | None = b""
        endpoint: Endpoint | None = None
        full = self._capture.full  # what was taken before it is captured, however full it is then
        try:
            endpoint = self._endpoints.find(name)
            if full or self._in_flight > IN_FLIGHT:
                # Before the body is read: what is put off must not cost memory.
                raise errors.ApiError(
                    "REQUEST_LIMIT_EXCEEDED", "Too many queries wait", name[:80], "Try again soon"
                )
            body = await auth.read_body(scope, receive)
            if len(body) <= INLINE_BYTES:
                told = await self._beside_others(prepared(endpoint, body, request_id))
            else:
                told = await asyncio.to_thread(answer, endpoint, body, request_id)
        except errors.ApiError as error:
            if error.code == "REQUEST_TOO_LARGE":
                body = None
            told = refused(error.code, str(error), request_id)
        if endpoint is not None and not full:
            micros = round((time.perf_counter() - started) * 1_000_000)
            at = time.time_ns() // 1000 - micros  # when it came
            self._capture.put(Taken(name, endpoint.payload_table, told, body, at, micros))
        return told

    async def _beside_others(self, query: Query | Answer) -> Answer:
        """The answer, made together with those of queries that came at the same time."""
        if isinstance(query, Answer):
            return query
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._answer_waiting)  # after all that the loop has read by now
        self._waiting.append((query, told))
        return await told

    def _answer_waiting(self) -> None:
        taken, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._answer_waiting)
        for (_, waits), told in zip(taken, answers([query for query, _ in taken]), strict=True):
            if not waits.done():  # its client went away
                waits.set_result(told)


async def _send(send: Send, told: Answer) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(told.body)).encode()),
        (b"databricks-request-id", told.request_id.encode()),
    ]
    if told.served is not None:
        headers.append((b"served-model-name", told.served.name.encode()))
    if told.retry_after:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": told.status, "headers": headers})
    await send({"type": "http.response.body", "body": told.body})
