"""The OpenAPI document: FastAPI's own for the management routes, and the way of a query added.

Queries are answered before the framework is reached, so their description is written here, from the
request contract's own constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.features.request import FIELDS
from databricks_steps.inference import request as contract
from taxi_assets.emulator import errors
from taxi_assets.emulator.auth import OPEN

if TYPE_CHECKING:
    from fastapi import FastAPI

Schema = dict[str, Any]
QUERY = "/serving-endpoints/{name}/invocations"
_ERROR = {
    "description": "Refused or failed, in Databricks' form",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}


def install(app: FastAPI) -> None:
    """Make the application describe itself by `document`."""
    generated = app.openapi

    def described() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = document(generated())
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def document(generated: Schema) -> Schema:
    """The framework's document with queries, every status that is answered, and the token."""
    components = generated.setdefault("components", {})
    components.setdefault("schemas", {}).update(_components())
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    generated["paths"][QUERY] = {"post": _query()}
    for path, operations in generated["paths"].items():
        for operation in operations.values():
            answers = operation["responses"]
            answers.pop("422", None)  # what breaks a model is answered with 400
            answers |= {str(status): _ERROR for status in sorted({*errors.STATUS.values()})}
            if path not in OPEN:
                operation["security"] = [{"token": []}]
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    return generated


def _query() -> Schema:
    return {
        "tags": ["queries"],
        "summary": "Fares for the rows of a request",
        "operationId": "query",
        "parameters": [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("FareRequest")}},
        },
        "responses": {
            "200": {
                "description": "A fare for each row, in their order",
                "content": {"application/json": {"schema": _ref("Fares")}},
            }
        },
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _components() -> dict[str, Schema]:
    return {
        "Error": {
            "type": "object",
            "properties": {
                "error_code": {"type": "string", "enum": sorted(errors.STATUS)},
                "message": {"type": "string"},
            },
            "required": ["error_code", "message"],
            "additionalProperties": False,
        },
        "FareRequest": {"oneOf": [_form(name, rows) for name, rows in _forms().items()]},
        "FareRow": _row(),
        "Fares": _fares(),
    }


def _fields() -> dict[str, Schema]:
    location = {"type": "integer", "minimum": 1, "maximum": contract.MAX_LOCATION}
    values: tuple[Schema, ...] = (
        location,
        location,
        {"type": "number", "exclusiveMinimum": 0, "maximum": contract.MAX_MILES},
        {
            "type": "string",
            "description": f"{contract.PICKUP_RULE}; whole or with fractions of a second",
            "pattern": _PICKUPS,
            "examples": ["2022-01-14 07:45:00"],
        },
    )
    return dict(zip(FIELDS, values, strict=True))


# Days end at 28 here: which months are longer, a pattern cannot say in a line.
_PICKUPS = (
    r"^20(09|[1-9][0-9])-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])[ T]"
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?$"
)


def _row() -> Schema:
    known_after = {
        name: {"description": "Accepted, and without influence"}
        for name in sorted(contract.IGNORED)
    }
    return {
        "type": "object",
        "properties": _fields() | known_after,
        "required": [*FIELDS],
        "additionalProperties": False,
    }


def _forms() -> dict[str, Schema]:
    rows = {"type": "array", "minItems": 1, "maxItems": contract.MAX_ROWS}
    fields = _fields()
    split = {
        "type": "object",
        "description": "Columns in any order, each once; every row as long as columns",
        "properties": {
            "columns": {"type": "array", "const": [*FIELDS]},
            "data": rows
            | {
                "items": {
                    "type": "array",
                    "prefixItems": [*fields.values()],
                    "items": False,
                    "minItems": len(fields),
                }
            },
        },
        "required": ["columns", "data"],
        "additionalProperties": False,
    }
    records = rows | {"items": _ref("FareRow")}
    return dict.fromkeys(contract.FORMS, records) | {"dataframe_split": split}


def _form(name: str, rows: Schema) -> Schema:
    asked = {
        "type": "object",
        "properties": {
            "interval": {"type": "boolean", "description": "Answer each fare with low and high"},
            "features": {"type": "boolean", "description": "Answer the model's inputs, too"},
        },
    }
    return {
        "title": name,
        "type": "object",
        "properties": {
            name: rows,
            "params": asked,
            "client_request_id": {"type": "string", "maxLength": 256, "pattern": "^[ -~]*$"},
        },
        "required": [name],
        "additionalProperties": False,
    }


def _fares() -> Schema:
    dollars = {"type": "number"}
    interval = {
        "type": "object",
        "properties": dict.fromkeys(("fare", "low", "high"), dollars),
        "required": ["fare", "low", "high"],
        "additionalProperties": False,
    }
    inputs = [column.name for column in schemas.MODEL_INPUTS]
    ages = {"type": "array", "items": {"type": ["integer", "null"]}}
    return {
        "type": "object",
        "properties": {
            "predictions": {"type": "array", "items": {"anyOf": [dollars, interval]}},
            "interval": {
                "type": "object",
                "properties": {
                    "coverage": {"type": ["number", "null"]},
                    "measured_on_rows": {"type": "integer"},
                },
                "required": ["coverage", "measured_on_rows"],
                "additionalProperties": False,
            },
            "features": {
                "type": "object",
                "properties": {key: {"type": "array", "items": dollars} for key in inputs},
            },
            "feature_age_seconds": {"type": "object", "additionalProperties": ages},
        },
        "required": ["predictions"],
        "additionalProperties": False,
    }
