"""The endpoint's payload table, of either shape, under one set of names.

An AI-gateway inference table names the served entity that answered, and `served_entities` of the
system tables which version that was; the older inference table names the version itself. Rows are
delivered at least once, as whole requests in JSON.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from databricks_steps import fingerprint
from databricks_steps.inference import request as contract
from databricks_steps.inference.request import FareRequest
from databricks_steps.interfaces import Platform

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_LOG = logging.getLogger(__name__)
SERVED_ENTITIES = "system.serving.served_entities"
LEGACY = "timestamp_ms"  # a column that only the older shape has
ANSWERED = 200
CLIENT, CHECK = "client", "check"  # origins: who asked
COLUMNS = (
    "request_id",
    "client_request_id",
    "origin",
    "requested_at",
    "status_code",
    "latency",
    "served_entity",
    "model_version",  # as the table tells it; null in the AI gateway's shape
    "request",
    "response",
    "not_kept",  # why request or response are missing; null when they are there
    "looked_up_features",  # JSON; null where the table has none
    "request_month",
)
PAYLOAD = ("status_code", "request", "response", "not_kept")  # what `read` takes


def requests(platform: Platform) -> DataFrame | None:
    """What clients asked, by `COLUMNS`, as it was delivered; None without a payload table.

    Requests of the project's own checks are left out: they are nobody's rides.
    """
    from pyspark.sql import functions as F

    table = platform.tables.foreign(platform.settings.payload_table)
    return None if table is None else canonical(table).where(F.col("origin") == CLIENT)


def content_version(platform: Platform) -> int | None:
    """A number that changes when others have asked, or their versions are told.

    None where nobody has: without a payload table, or with the project's own requests alone.
    """
    tables = platform.tables
    own = ("client_request_id", contract.OWN)
    payloads = tables.foreign_contents(platform.settings.payload_table, own)
    if not payloads:
        return None
    return fingerprint.digest(payloads, tables.foreign_contents(SERVED_ENTITIES))


def canonical(table: DataFrame) -> DataFrame:
    """A payload table of either shape by `COLUMNS`."""
    from pyspark.sql import functions as F

    def text(name: str) -> Column:
        found = F.col(name) if name in table.columns else F.lit(None)
        return found.cast("string")

    if LEGACY in table.columns:
        at = F.timestamp_millis(F.col(LEGACY))
        latency, entity = text("execution_time_ms"), _of_metadata("model_name")
        version, codes = _of_metadata("model_version"), F.lit(None).cast("string")
    else:
        at, latency, entity = F.col("request_time"), text("execution_duration_ms"), None
        version, codes = F.lit(None).cast("string"), F.lit(None).cast("string")
        if "logging_error_codes" in table.columns:
            joined = F.array_join("logging_error_codes", ", ")
            codes = F.when(joined != "", joined)
    client_id = text("client_request_id")
    # An id is promised; a request without one must not be lost, nor taken for another.
    made = F.concat_ws("-", F.lit("none"), F.unix_micros(at).cast("string"), client_id)
    named = {
        "request_id": F.coalesce(text("databricks_request_id"), made),
        "client_request_id": client_id,
        "origin": F.when(F.startswith(client_id, F.lit(contract.OWN)), CHECK).otherwise(CLIENT),
        "requested_at": at,
        "status_code": F.coalesce(F.col("status_code").cast("int"), F.lit(0)),
        "latency": latency.cast("double"),
        "served_entity": text("served_entity_id") if entity is None else entity,
        "model_version": version,
        "request": text("request"),
        "response": text("response"),
        "not_kept": codes,
        "looked_up_features": text("looked_up_features"),
        "request_month": F.date_format(at, "yyyy-MM"),
    }
    return table.select(*(named[name].alias(name) for name in COLUMNS))


def entity_versions(platform: Platform) -> dict[str, str]:
    """Served entity → version of this project's model; empty where nobody may tell."""
    from pyspark.errors import PySparkException

    try:
        table = platform.tables.foreign(SERVED_ENTITIES)
        if table is None:
            return {}
        ours = table.where(table["entity_name"] == platform.settings.registered_model)
        found = ours.select("served_entity_id", "entity_version").distinct().collect()
    except PySparkException as error:  # reading system tables is a grant of its own
        _LOG.warning("%s cannot be read, so versions stay unknown: %s", SERVED_ENTITIES, error)
        return {}
    return {row["served_entity_id"]: str(row["entity_version"]) for row in found}


def with_versions(rows: DataFrame, versions: Mapping[str, str]) -> DataFrame:
    """The rows with `model_version` also where only the served entity is told."""
    from pyspark.sql import functions as F

    if not versions:
        return rows
    known = F.create_map(*(F.lit(text) for pair in sorted(versions.items()) for text in pair))
    # try_element_at: of a request that no entity answered there is no version.
    version = F.coalesce("model_version", F.try_element_at(known, F.col("served_entity")))
    return rows.withColumn("model_version", version)


class Read(NamedTuple):
    """What was read of one captured request: its trips, or why not, and a fare for each.

    `fares` holds None for each trip that got none, and then `problem` says why.
    """

    asked: FareRequest | None
    fares: tuple[float | None, ...]
    problem: str | None


def read(status: int, request: str | None, response: str | None, not_kept: str | None) -> Read:
    """One captured request and its answer."""
    asked, problem = _asked(request, not_kept)
    rows = 1 if asked is None else len(asked)
    none = (None,) * rows
    if status != ANSWERED:
        return Read(asked, none, f"answered {status}: {_refusal(response)}")
    if asked is None:
        return Read(None, none, problem)
    try:
        return Read(asked, _fares(json.loads(response or ""), rows), None)
    except (ValueError, OverflowError, RecursionError) as error:
        said = not_kept or str(error)
        return Read(asked, none, f"the answer cannot be read: {said}"[:500])


def _asked(request: str | None, not_kept: str | None) -> tuple[FareRequest | None, str | None]:
    if request is None:
        return None, f"the request was not kept: {not_kept or 'no reason is told'}"
    try:
        return contract.read(json.loads(request)), None
    except (ValueError, RecursionError, contract.RequestError) as error:
        return None, f"the request cannot be read: {error}"[:500]


def _fares(answer: Any, rows: int) -> tuple[float, ...]:
    """The fares of an answer; ValueError says what is wrong with it."""
    told = answer.get("predictions") if isinstance(answer, dict) else None
    if not isinstance(told, list) or len(told) != rows:
        held = len(told) if isinstance(told, list) else "no"
        raise ValueError(f"{held} predictions for {rows} trips")
    fares: list[Any] = [fare.get("fare") if isinstance(fare, dict) else fare for fare in told]
    for place, fare in enumerate(fares):
        number = isinstance(fare, (int, float)) and not isinstance(fare, bool)
        if not number or not math.isfinite(fare):
            raise ValueError(f"prediction {place} is {json.dumps(fare)[:80]}")
    return tuple(float(fare) for fare in fares)


def _refusal(response: str | None) -> str:
    """What an answer says that holds no fares."""
    try:
        said = json.loads(response or "")["message"]
    except (ValueError, RecursionError, KeyError, TypeError):
        said = response or "nothing"
    return str(said).encode(errors="replace").decode()[:500]  # JSON may hold half a character


def _of_metadata(key: str) -> Column:
    from pyspark.sql import functions as F

    return F.try_element_at(F.col("request_metadata"), F.lit(key))
