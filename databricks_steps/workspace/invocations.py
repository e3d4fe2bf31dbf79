"""The way of a query: token, body, validation, lookups, one ONNX call, answer, capture.

A plain ASGI application: this path carries no framework, no model classes and no data frames.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from databricks_steps.errors import TaxiError
from databricks_steps.serving import request as contract
from databricks_steps.serving.request import FareRequest
from databricks_steps.serving.scorer import Scorer
from databricks_steps.workspace import auth, errors
from databricks_steps.workspace.capture import Capture
from databricks_steps.workspace.endpoints import Endpoint, Endpoints, ServedModel

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from starlette.types import ASGIApp, Receive, Scope, Send

_LOG = logging.getLogger(__name__)
_PATH = re.compile(r"/serving-endpoints/([^/]+)/invocations")
INLINE_BYTES = 16 * 1024  # larger bodies are answered in a thread, so that small ones do not wait


@dataclass(frozen=True)
class Answer:
    """What one query gets, before it is sent."""

    status: int
    body: bytes
    request_id: str
    client_id: str | None = None
    served: ServedModel | None = None
    retry_after: bool = False


class Invocations:
    """Answers queries of endpoints; every other path goes to the application behind it."""

    def __init__(self, app: ASGIApp, secret: str, endpoints: Endpoints, capture: Capture) -> None:
        self._app = app
        self._expected = f"Bearer {secret}".encode()
        self._endpoints = endpoints
        self._capture = capture

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/invocations"):
            await self._app(scope, receive, send)
            return
        path = _PATH.fullmatch(scope["path"])
        if path is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        refused = auth.refusal(scope["headers"], self._expected)
        if refused is not None:
            answer = _refused(*refused, request_id=str(uuid.uuid4()))
        else:
            try:
                answer = await self._query(path[1], receive, started)
            except ConnectionError:
                return
        await _send(send, answer)

    async def _query(self, name: str, receive: Receive, started: float) -> Answer:
        request_id = str(uuid.uuid4())
        body, too_large = b"", False
        endpoint: Endpoint | None = None
        try:
            endpoint = self._endpoints.find(name)
            body = await auth.read_body(receive)
            if self._capture.full:
                return _refused(
                    "REQUEST_LIMIT_EXCEEDED",
                    "Too many requests wait to be captured. Try again in a second",
                    request_id,
                )
            if len(body) <= INLINE_BYTES:
                answer = _answer(endpoint, body, request_id)
            else:
                answer = await asyncio.to_thread(_answer, endpoint, body, request_id)
        except errors.ApiError as error:
            too_large = error.code == "REQUEST_TOO_LARGE"
            answer = _refused(error.code, str(error), request_id)
        if endpoint is not None and endpoint.payload_table is not None:
            self._take(endpoint.payload_table, answer, None if too_large else body, started)
        return answer

    def _take(self, table: str, answer: Answer, body: bytes | None, started: float) -> None:
        self._capture.put(
            (
                table,
                answer.request_id,
                answer.client_id,
                time.time_ns() // 1000,
                answer.status,
                round((time.perf_counter() - started) * 1000),
                None if body is None else body.decode(errors="replace"),
                answer.body.decode(),
                answer.served.entity_id if answer.served else None,
                "[]" if body is not None else '["MAX_REQUEST_SIZE_EXCEEDED"]',
            )
        )


def _answer(endpoint: Endpoint, body: bytes, request_id: str) -> Answer:
    """The answer to a query, whatever its body holds."""
    client_id = None
    try:
        serving = endpoint.serving
        if serving is None:
            raise _not_ready(endpoint)
        request = contract.parse(body)
        client_id = request.client_request_id
        served = serving.route(client_id or request_id)
        rows = matrix(request, served)
        told = (
            with_interval(served.scorer, rows)
            if request.interval
            else {"predictions": served.scorer.predict(rows)}
        )
        answer = orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)
        return Answer(200, answer, request_id, client_id, served)
    except TaxiError as error:
        return _refused(getattr(error, "code", "BAD_REQUEST"), str(error), request_id, client_id)
    except Exception:
        _LOG.exception("a query failed")
        return _refused("INTERNAL_ERROR", "The query failed; the log says why", request_id)


def with_interval(scorer: Scorer, rows: NDArray[np.float32]) -> dict[str, Any]:
    """Predictions as objects of `fare`, `low` and `high`, and how much the interval covers."""
    found = scorer.predict_interval(rows)
    calibrated = scorer.spec.interval
    names = ("fare", "low", "high")
    values = zip(found.fares.tolist(), found.low.tolist(), found.high.tolist(), strict=True)
    return {
        "predictions": [dict(zip(names, row, strict=True)) for row in values],
        "interval": {
            "coverage": calibrated.coverage if calibrated else None,
            "measured_on_rows": calibrated.rows if calibrated else 0,
        },
    }


def matrix(request: FareRequest, served: ServedModel) -> NDArray[np.float32]:
    """The model's inputs for every row: what the request says, and what the lookups answer."""
    if len(request) == 1:  # the common case; arrays of one element would cost more than the lookup
        row = [values.item() for values in request.features().values()]
        for lookup in served.lookups:
            row += lookup.one(request.keys(lookup.key).item())
        return np.array([[row[place] for place in served.order]], dtype=np.float32)
    columns = [*request.features().values()]
    for lookup in served.lookups:
        columns.extend(lookup.many(request.keys(lookup.key)).T)
    return np.column_stack([columns[place] for place in served.order]).astype(np.float32)


def _not_ready(endpoint: Endpoint) -> errors.ApiError:
    name, failure = endpoint.document["name"], endpoint.document.get("failure")
    if failure:
        return errors.ApiError(
            "BAD_REQUEST", "An endpoint must be ready", f"{name} failed: {failure}", "Update it"
        )
    return errors.ApiError(
        "TEMPORARILY_UNAVAILABLE", "An endpoint must be ready", f"{name} is loading", "Try again"
    )


def _refused(code: str, message: str, request_id: str, client_id: str | None = None) -> Answer:
    status = errors.STATUS[code]
    return Answer(
        status,
        errors.body(code, message),
        request_id,
        client_id,
        retry_after=status in (429, 503),
    )


async def _send(send: Send, answer: Answer) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(answer.body)).encode()),
        (b"databricks-request-id", answer.request_id.encode()),
    ]
    if answer.served is not None:
        headers.append((b"served-model-name", answer.served.name.encode()))
    if answer.retry_after:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
