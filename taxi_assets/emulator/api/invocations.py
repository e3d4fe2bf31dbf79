"""The way of a query over HTTP: token, limits, body, answer, capture.

A plain ASGI application: this path carries no framework and no model classes.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections import deque
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
# What is scored in one call: more would gain little and hold up others.
TOGETHER, ROWS_TOGETHER = 16, 100
IN_FLIGHT = 256  # queries that are being read, or answered in a thread, before others are put off


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
        self._waiting: deque[tuple[Query, asyncio.Future[Answer]]] = deque()

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
            try:
                told = await self._query(path[1], scope, receive, started)
            except ConnectionError:
                return
        await _send(send, told)

    async def _query(self, name: str, scope: Scope, receive: Receive, started: float) -> Answer:
        request_id = str(uuid.uuid4())
        body: bytes | None = b""
        endpoint: Endpoint | None = None
        full = self._capture.full  # what was taken before it is captured, however full it is then
        try:
            endpoint = self._endpoints.find(name)
            if full or self._in_flight >= IN_FLIGHT:
                # Before the body is read: what is put off must not cost memory.
                raise errors.ApiError(
                    "REQUEST_LIMIT_EXCEEDED", "Too many queries wait", name[:80], "Try again soon"
                )
            self._in_flight += 1
            try:
                body = await auth.read_body(scope, receive)
                found = (
                    prepared(endpoint, body, request_id)
                    if len(body) <= INLINE_BYTES
                    else await asyncio.to_thread(answer, endpoint, body, request_id)
                )
            finally:
                self._in_flight -= 1
            told = found if isinstance(found, Answer) else await self._beside_others(found)
        except errors.ApiError as error:
            if error.code == "REQUEST_TOO_LARGE":
                body = None
            told = refused(error.code, str(error), request_id)
        if endpoint is not None and not full:
            micros = round((time.perf_counter() - started) * 1_000_000)
            at = time.time_ns() // 1000 - micros  # when it came
            self._capture.put(Taken(name, endpoint.payload_table, told, body, at, micros))
        return told

    async def _beside_others(self, query: Query) -> Answer:
        """The answer, made together with those of queries that came at the same time."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._answer_waiting)  # after all that the loop has read by now
        self._waiting.append((query, told))
        return await told

    def _answer_waiting(self) -> None:
        together: list[tuple[Query, asyncio.Future[Answer]]] = []
        rows = 0
        while self._waiting and len(together) < TOGETHER and rows < ROWS_TOGETHER:
            together.append(self._waiting.popleft())
            rows += len(together[-1][0].request)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._answer_waiting)
        try:
            found = answers([query for query, _ in together])
        except Exception as error:
            for _, told in together:
                if not told.done():
                    told.set_exception(error)
            raise
        for (_, told), each in zip(together, found, strict=True):
            if not told.done():  # the server stops, and has cancelled it
                told.set_result(each)


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
