"""The OpenAPI document: FastAPI's own, with queries, every status that is answered, and the token.

Queries are answered before the framework is reached: their models here, made from the request
contract's own constants, describe them and nothing more.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ConfigDict, Field

from databricks_steps.features.request import NOT_TOLD, TRIP_TYPES
from databricks_steps.inference import request as contract
from databricks_steps.trips import limits
from taxi_assets.emulator import errors
from taxi_assets.emulator.auth import OPEN

Schema = dict[str, Any]
QUERY = "/serving-endpoints/{name}/invocations"
# Days end at 28 here: which months are longer, a pattern cannot say in a line.
_PICKUPS = (
    r"^20(09|[1-9][0-9])-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])[ T]"
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?$"
)
_TIMES = f"{contract.PICKUP_RULE}; whole or with fractions of a second"
Location = Annotated[int, Field(ge=limits.FIRST_LOCATION, le=limits.LAST_LOCATION)]
Miles = Annotated[float, Field(gt=0, le=limits.MOST_MILES)]
TripType = Annotated[int, Field(ge=NOT_TOLD, le=max(TRIP_TYPES))]
Pickup = Annotated[str, Field(pattern=_PICKUPS, description=_TIMES)]


def _with_ignored(schema: Schema) -> None:
    known_after = {"description": "Accepted, and without influence"}
    schema["properties"] |= dict.fromkeys(sorted(contract.IGNORED), known_after)


def _with_codes(schema: Schema) -> None:
    schema["enum"] = sorted(errors.STATUS)


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FareRow(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra=_with_ignored)

    pickup_location_id: Location
    dropoff_location_id: Location
    trip_distance: Miles
    pickup_datetime: Pickup = Field(examples=["2022-01-14 07:45:00"])
    trip_type: TripType | None = Field(
        default=None, description="1 street hail, 2 dispatch; left out, null or 0: not told"
    )


Rows = Annotated[list[FareRow], Field(min_length=1, max_length=contract.MAX_ROWS)]


class Split(Closed):
    """Columns in any order, each once; every row as long as columns."""

    columns: tuple[
        Literal["pickup_location_id"],
        Literal["dropoff_location_id"],
        Literal["trip_distance"],
        Literal["pickup_datetime"],
    ]
    data: list[tuple[Location, Location, Miles, Pickup]] = Field(
        min_length=1, max_length=contract.MAX_ROWS
    )


class Params(BaseModel):
    interval: bool = Field(default=False, description="Answer each fare with low and high")
    features: bool = Field(default=False, description="Answer the model's inputs, too")


class Request(Closed):
    params: Params = Params()
    client_request_id: str = Field(default="", max_length=256, pattern="^[ -~]*$")


class Records(Request):
    dataframe_records: Rows


class SplitRecords(Request):
    dataframe_split: Split


class Instances(Request):
    instances: Rows


class Inputs(Request):
    inputs: Rows


class FareInterval(Closed):
    fare: float
    low: float
    high: float


class Coverage(Closed):
    coverage: float | None
    measured_on_rows: int


class Fares(Closed):
    """A fare for each row, in their order."""

    predictions: list[float | FareInterval]
    interval: Coverage | None = None
    features: dict[str, list[float]] = {}
    feature_age_seconds: dict[str, list[int | None]] = {}


class Error(Closed):
    """Refused or failed, in Databricks' form."""

    error_code: str = Field(json_schema_extra=_with_codes)
    message: str


def routes() -> APIRouter:
    """The query as the document has it; `invocations` answers it."""
    router = APIRouter(
        tags=["queries"],
        responses={status: {"model": Error} for status in sorted({*errors.STATUS.values()})},
    )

    @router.post(QUERY, operation_id="query", summary="Fares for the rows of a request")
    def query(name: str, request: Records | SplitRecords | Instances | Inputs) -> Fares:
        raise NotImplementedError

    return router


def install(app: FastAPI) -> None:
    """Make the application describe itself by `document`."""
    generated = app.openapi
    app.openapi = lambda: app.openapi_schema or document(generated())  # type: ignore[method-assign]


def document(generated: Schema) -> Schema:
    """The framework's document with every status that is answered, and the token."""
    components = generated["components"]
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    refused = {
        status: answer
        for status, answer in generated["paths"][QUERY]["post"]["responses"].items()
        if status not in ("200", "422")
    }
    for path, operations in generated["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # what breaks a model is answered with 400
            operation["responses"] |= refused
            if path not in OPEN:
                operation["security"] = [{"token": []}]
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    return generated
