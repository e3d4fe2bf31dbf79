"""Queries answered: bytes in, status and bytes out; parse, route, look up, score.

Queries that wait at the same time share a call of ONNX: eight rows take one and a half times as
long as one. No sockets, no model classes of a framework and no data frames on this path.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from databricks_steps.errors import TaxiError
from databricks_steps.inference import request as contract
from databricks_steps.inference.request import FareRequest
from databricks_steps.inference.scorer import FareRange
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime.endpoints import Endpoint
from taxi_assets.emulator.runtime.lookups import FRESH, Lookup, Many, One
from taxi_assets.emulator.runtime.served_model import ServedModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]
    Fares = NDArray[np.float64]

_LOG = logging.getLogger(__name__)
_NUMPY = orjson.OPT_SERIALIZE_NUMPY


class LookedUp(NamedTuple):
    """What one lookup was asked and answered: an int and `One`, or arrays and `Many`."""

    lookup: Lookup
    locations: int | NDArray[np.int64]
    found: One | Many


class Answer(NamedTuple):
    """What one query gets, before it is sent, and what stands behind it."""

    status: int
    body: bytes
    request_id: str
    client_id: str | None = None
    served: ServedModel | None = None
    looked_up: tuple[LookedUp, ...] = ()
    rows: int = 0
    retry_after: bool = False


class Query(NamedTuple):
    """A valid query with its lookups answered, as the model takes it: (rows, inputs)."""

    request_id: str
    request: FareRequest
    model: ServedModel
    inputs: Matrix
    looked_up: tuple[LookedUp, ...]


def answer(endpoint: Endpoint, body: bytes, request_id: str) -> Answer:
    """The answer to a query, whatever its body holds."""
    query = prepared(endpoint, body, request_id)
    return query if isinstance(query, Answer) else answers([query])[0]


def prepared(endpoint: Endpoint, body: bytes, request_id: str) -> Query | Answer:
    """A query up to its fares, or its answer where there are none to give."""
    client_id, model = None, None
    try:
        request = contract.parse(body)
        client_id = request.client_request_id
        model = endpoint.serving  # one assignment swaps it: the whole answer is by one version
        if model is None:
            raise _not_ready(endpoint)
        inputs, looked_up = matrix(request, model)
        return Query(request_id, request, model, inputs, looked_up)
    except Exception as error:
        client_id = getattr(error, "client_request_id", client_id)
        return _failed(error, request_id, client_id, model)


def answers(queries: Sequence[Query]) -> list[Answer]:
    """An answer for each query, in their order."""
    of_kinds = [(id(query.model), query.request.interval) for query in queries]
    kinds = {*of_kinds}
    if len(kinds) == 1:
        return _of_one_kind(queries)
    told = {
        kind: iter(
            _of_one_kind([q for q, own in zip(queries, of_kinds, strict=True) if own == kind])
        )
        for kind in kinds
    }
    return [next(told[kind]) for kind in of_kinds]


def _of_one_kind(queries: Sequence[Query]) -> list[Answer]:
    """Answers to queries of one model, which want an interval all or none."""
    scorer, rows = queries[0].model.scorer, [query.inputs for query in queries]
    try:
        matrix = rows[0] if len(rows) == 1 else np.concatenate(rows)
        found = (scorer.predict_interval if queries[0].request.interval else scorer.predict)(matrix)
    except Exception as error:
        if len(queries) > 1:  # one of them must not take the others along
            return [each for query in queries for each in _of_one_kind([query])]
        (query,) = queries
        return [_failed(error, query.request_id, query.request.client_request_id, query.model)]
    told, end = [], 0
    for query in queries:
        first, end = end, end + len(query.request)
        told.append(_answered(query, found[first:end]))
    return told


def _answered(query: Query, found: Fares | FareRange) -> Answer:
    request = query.request
    try:
        body = orjson.dumps(_told(query, found), option=_NUMPY)
    except Exception as error:
        return _failed(error, query.request_id, request.client_request_id, query.model)
    told = 200, body, query.request_id, request.client_request_id
    return Answer(*told, query.model, query.looked_up, len(request))


def _failed(
    error: Exception, request_id: str, client_id: str | None, model: ServedModel | None
) -> Answer:
    if isinstance(error, TaxiError):
        code = getattr(error, "code", "BAD_REQUEST")
        return refused(code, str(error), request_id, client_id, model)
    _LOG.error("a query failed", exc_info=error)
    message = "The query failed; the log says why"
    return refused("INTERNAL_ERROR", message, request_id, client_id, model)


def refused(
    code: str,
    message: str,
    request_id: str,
    client_id: str | None = None,
    served: ServedModel | None = None,
) -> Answer:
    """An answer that says no; `served` is the model that could not answer, if one was reached."""
    status = errors.STATUS[code]
    body = errors.body(code, message)
    put_off = status in errors.PUT_OFF
    return Answer(status, body, request_id, client_id, served, retry_after=put_off)


def matrix(request: FareRequest, model: ServedModel) -> tuple[Matrix, tuple[LookedUp, ...]]:
    """The model's inputs for every row: what the request says, and what the lookups answer."""
    now = model.tables.snapshot  # one for all lookups: no publish falls in between
    if len(request) == 1:  # the common case; arrays of one element would cost more than the lookup
        at = request.pickup_micros.item()
        row = request.only_row()
        looked_up = []
        for lookup in model.lookups:
            location = request.keys(lookup.key).item()
            found = lookup.one(now, location, at)
            row += found.features
            looked_up.append(LookedUp(lookup, location, found))
        inputs = np.array([model.in_order(row)], dtype=np.float32)
        return inputs, tuple(looked_up)
    times, columns, asked = request.pickup_micros, [*request.features().values()], []
    for lookup in model.lookups:
        locations = request.keys(lookup.key)
        many = lookup.many(now, locations, times)
        columns.extend(many.features.T)
        asked.append(LookedUp(lookup, locations, many))
    whole = np.column_stack(model.in_order(columns)).astype(np.float32)
    return whole, tuple(asked)


def _told(query: Query, found: Fares | FareRange) -> dict[str, Any]:
    model = query.model
    told: dict[str, Any] = (
        _with_interval(model, found) if isinstance(found, FareRange) else {"predictions": found}
    )
    if query.request.explain:
        values = query.inputs.T.tolist()
        told["features"] = dict(zip(model.scorer.spec.inputs, values, strict=True))
        told["feature_age_seconds"] = {
            each.lookup.source: _ages(query.request, each) for each in query.looked_up
        }
    return told


def _with_interval(model: ServedModel, found: FareRange) -> dict[str, Any]:
    """Predictions as objects of `fare`, `low` and `high`, and how much the interval covers."""
    calibrated = model.scorer.spec.interval
    names = ("fare", "low", "high")
    values = zip(found.fares.tolist(), found.low.tolist(), found.high.tolist(), strict=True)
    return {
        "predictions": [dict(zip(names, row, strict=True)) for row in values],
        "interval": {
            "coverage": calibrated.coverage if calibrated else None,
            "measured_on_rows": calibrated.rows if calibrated else 0,
        },
    }


def _ages(request: FareRequest, looked_up: LookedUp) -> list[int | None]:
    """Seconds from `known_at` to the pickup for each row; null where the defaults answered."""
    known = np.atleast_1d(np.asarray(looked_up.found.known_at))
    state = np.atleast_1d(looked_up.found.state)
    return [
        (at - then) // 1_000_000 if fresh else None
        for at, then, fresh in zip(
            request.pickup_micros.tolist(), known.tolist(), state == FRESH, strict=True
        )
    ]


def _not_ready(endpoint: Endpoint) -> errors.ApiError:
    name, failure = endpoint.document["name"], endpoint.document.get("failure")
    if failure:
        return errors.ApiError(
            "BAD_REQUEST", "An endpoint must be ready", f"{name} failed: {failure}", "Update it"
        )
    return errors.ApiError(
        "TEMPORARILY_UNAVAILABLE", "An endpoint must be ready", f"{name} is loading", "Try again"
    )
