"""Answers of the emulator that say no, in Databricks' own JSON form and status."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import orjson

from databricks_steps.errors import TaxiError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

_LOG = logging.getLogger(__name__)

STATUS = {
    "BAD_REQUEST": 400,
    "INVALID_PARAMETER_VALUE": 400,
    "RESOURCE_ALREADY_EXISTS": 400,
    "IO_ERROR": 400,
    "MAX_BLOCK_SIZE_EXCEEDED": 400,
    "MAX_READ_SIZE_EXCEEDED": 400,
    "ALREADY_EXISTS": 409,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "ENDPOINT_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_TIMEOUT": 408,
    "RESOURCE_CONFLICT": 409,
    "REQUEST_TOO_LARGE": 413,
    "REQUEST_LIMIT_EXCEEDED": 429,
    "INTERNAL_ERROR": 500,
    "TEMPORARILY_UNAVAILABLE": 503,
}
PUT_OFF = (429, 503)  # statuses that ask to try again
_CODES = {404: "ENDPOINT_NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}


class ApiError(TaxiError):
    """An answer other than success; `code` decides the status."""

    def __init__(self, code: str, rule: str, value: object, remedy: str) -> None:
        super().__init__(rule, value, remedy)
        self.code = code

    @property
    def status(self) -> int:
        return STATUS[self.code]


def missing(what: str, name: str, remedy: str) -> ApiError:
    return ApiError("RESOURCE_DOES_NOT_EXIST", f"{what} does not exist", name, remedy)


def invalid(rule: str, value: object, remedy: str) -> ApiError:
    return ApiError("INVALID_PARAMETER_VALUE", rule, value, remedy)


def body(code: str, message: str) -> bytes:
    return orjson.dumps({"error_code": code, "message": message})


def response(code: str, message: str) -> Response:
    from starlette.responses import Response

    status = STATUS[code]
    headers = {"Retry-After": "1"} if status in PUT_OFF else None
    return Response(body(code, message), status, headers, media_type="application/json")


def install(app: FastAPI) -> None:
    """Answer every failure of the management routes in Databricks' form, never with a trace."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    @app.exception_handler(TaxiError)
    async def taxi_error(request: Request, error: TaxiError) -> Response:
        return response(getattr(error, "code", "BAD_REQUEST"), str(error))

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return response("INVALID_PARAMETER_VALUE", f"{place or 'body'}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, "BAD_REQUEST")
        return response(code, f"No API at {request.method} {request.url.path}: {error.detail}")

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return response("INTERNAL_ERROR", "The workspace failed; its log says why")
