"""One query answered: bytes in, status and bytes out; parse, route, look up, one ONNX call.

No sockets, no model classes of a framework and no data frames on this path.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from databricks_steps.errors import TaxiError
from databricks_steps.inference import request as contract
from databricks_steps.inference.request import FareRequest
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime.endpoints import Endpoint
from taxi_assets.emulator.runtime.lookups import FRESH, Lookup, Many, One
from taxi_assets.emulator.runtime.served_model import ServedModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

_LOG = logging.getLogger(__name__)
_NUMPY = orjson.OPT_SERIALIZE_NUMPY


class LookedUp(NamedTuple):
    """What one lookup was asked and answered: an int and `One`, or arrays and `Many`."""

    lookup: Lookup
    locations: int | NDArray[np.int64]
    found: One | Many


@dataclass(frozen=True)
class Answer:
    """What one query gets, before it is sent, and what stands behind it."""

    status: int
    body: bytes
    request_id: str
    client_id: str | None = None
    served: ServedModel | None = None
    looked_up: tuple[LookedUp, ...] = ()
    rows: int = 0
    retry_after: bool = False


def answer(endpoint: Endpoint, body: bytes, request_id: str) -> Answer:
    """The answer to a query, whatever its body holds."""
    client_id, model = None, None
    try:
        request = contract.parse(body)
        client_id = request.client_request_id
        model = endpoint.serving  # one assignment swaps it: the whole answer is by one version
        if model is None:
            raise _not_ready(endpoint)
        inputs, looked_up = matrix(request, model)
        told = orjson.dumps(_told(request, model, inputs, looked_up), option=_NUMPY)
        return Answer(200, told, request_id, client_id, model, looked_up, len(request))
    except TaxiError as error:
        code = getattr(error, "code", "BAD_REQUEST")
        client_id = getattr(error, "client_request_id", client_id)
        return refused(code, str(error), request_id, client_id, model)
    except Exception:
        _LOG.exception("a query failed")
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
        inputs = np.array([[row[place] for place in model.order]], dtype=np.float32)
        return inputs, tuple(looked_up)
    times, columns, asked = request.pickup_micros, [*request.features().values()], []
    for lookup in model.lookups:
        locations = request.keys(lookup.key)
        many = lookup.many(now, locations, times)
        columns.extend(many.features.T)
        asked.append(LookedUp(lookup, locations, many))
    whole = np.column_stack([columns[place] for place in model.order]).astype(np.float32)
    return whole, tuple(asked)


def _told(
    request: FareRequest, model: ServedModel, inputs: Matrix, looked_up: tuple[LookedUp, ...]
) -> dict[str, Any]:
    told: dict[str, Any] = (
        _with_interval(model, inputs)
        if request.interval
        else {"predictions": model.scorer.predict(inputs)}
    )
    if request.explain:
        told["features"] = dict(zip(model.scorer.spec.inputs, inputs.T.tolist(), strict=True))
        told["feature_age_seconds"] = {
            each.lookup.source: _ages(request, each) for each in looked_up
        }
    return told


def _with_interval(model: ServedModel, inputs: Matrix) -> dict[str, Any]:
    """Predictions as objects of `fare`, `low` and `high`, and how much the interval covers."""
    found = model.scorer.predict_interval(inputs)
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
