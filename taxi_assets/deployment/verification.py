"""What the serving side is checked against: latest offline rows, and fares computed offline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.errors import ServingError
from databricks_steps.features.request import FIELDS, with_request_features
from databricks_steps.inference.feature_spec import FeatureSpec
from databricks_steps.inference.scorer import Scorer
from databricks_steps.interfaces import Platform
from databricks_steps.settings import Settings
from taxi_assets.deployment import endpoint

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from databricks.sdk import WorkspaceClient
    from pyspark.sql import DataFrame

TOLERANCE = 1e-9
MAX_DAYS = 100_000  # no limit


def latest(rows: DataFrame) -> DataFrame:
    """The latest row of each location: what an online table holds."""
    from pyspark.sql import functions as F

    others = [name for name in rows.columns if name != "location_id"]
    newest = F.max_by(F.struct(*others), "known_at").alias("newest")
    return rows.groupBy("location_id").agg(newest).select("location_id", "newest.*")


def differences(
    online: Mapping[int, Mapping[str, Any]], platform: Platform, table: schemas.Table
) -> dict[str, Any]:
    """How many `locations` were compared, and `wrong`: sentences on where the rows that are
    `online` (location → row) and the offline ones differ."""
    offline = {row["location_id"]: row for row in latest(_rows(platform, table)).collect()}
    wrong = []
    for location in sorted(online.keys() | offline.keys()):
        if location not in online or location not in offline:
            side = "offline" if location in offline else "online"
            wrong.append(f"location {location} is only {side}")
            continue
        for feature in table.features:
            ours, theirs = offline[location][feature.name], online[location][feature.name]
            if not _same(ours, theirs):
                wrong.append(
                    f"location {location}: {feature.name} is {theirs} online, {ours} offline"
                )
    return {"locations": len(online.keys() | offline.keys()), "wrong": wrong}


def newest_online(online: Mapping[int, Mapping[str, Any]]) -> str | None:
    """`known_at` of the newest of the rows that are online, as ISO text."""
    return _instant(max((row["known_at"] for row in online.values()), default=None))


def newest_offline(platform: Platform, table: schemas.Table) -> str | None:
    """`known_at` of the newest row of the feature table, as ISO text."""
    from pyspark.sql import functions as F

    found = _rows(platform, table).agg(F.unix_micros(F.max("known_at")).alias("at")).first()
    return _instant(found["at"] if found else None)


@dataclass(frozen=True)
class Parity:
    """Holdout trips sent to the endpoint, against the offline path.

    `largest` is the largest difference of two fares in dollars; `skewed` has a sentence for each
    input of the model that the endpoint does not compute as the offline path does.
    """

    trips: int
    largest: float
    skewed: tuple[str, ...]
    compared: bool  # whether the endpoint told its inputs at all


def parity(
    client: WorkspaceClient, platform: Platform, model: Path, trips: int, singly: int = 100
) -> Parity:
    """Replay some holdout trips, `singly` of them one by one and the others as one request.

    Raises:
        ServingError: the endpoint refuses; the message says why.
    """
    scorer = Scorer.load(model)
    found = _offline(platform, scorer.spec, trips)
    expected = scorer.predict(found[list(scorer.spec.inputs)].to_numpy(dtype="float32"))
    records = [_record(row) for row in found[list(FIELDS)].values.tolist()]
    requests = [[record] for record in records[:singly]] + [records[singly:]]
    answers = [_replayed(client, platform.settings, rows) for rows in requests if rows]
    served = [fare for answer in answers for fare in answer["predictions"]]
    gaps = [abs(a - b) for a, b in zip(served, expected.tolist(), strict=True)]
    skewed = []
    compared = all("features" in answer for answer in answers)
    if compared:
        for name in scorer.spec.inputs:
            told = [value for answer in answers for value in answer["features"][name]]
            skewed += _skew(name, told, found[name].astype("float32").tolist(), records)
    return Parity(len(gaps), max(gaps, default=0.0), tuple(skewed), compared)


def _held(platform: Platform, trips: int) -> DataFrame:
    from pyspark.sql import functions as F

    held = platform.tables.read("training_set").where(F.col("split") == schemas.HOLDOUT)
    return held.orderBy(F.xxhash64("trip_id")).limit(trips).select(*FIELDS)


def _replayed(
    client: WorkspaceClient, settings: Settings, records: list[dict[str, Any]]
) -> dict[str, Any]:
    """The endpoint's answer, with the model's inputs where it tells them (Databricks does not)."""
    payload = endpoint.own({"dataframe_records": records}, "parity")
    from databricks.sdk.errors import BadRequest

    try:
        return endpoint.answer(client, settings, {**payload, "params": {"features": True}})
    except ServingError as error:
        if not isinstance(error.__cause__, BadRequest):
            raise
        return endpoint.answer(client, settings, payload)


def _skew(
    name: str, served: list[float], offline: list[float], records: list[dict[str, Any]]
) -> list[str]:
    differ = [
        place for place, pair in enumerate(zip(served, offline, strict=True)) if not _same(*pair)
    ]
    if not differ:
        return []
    first = differ[0]
    example = f"{served[first]:g} served, {offline[first]:g} offline for {records[first]}"
    return [f"{name} differs for {len(differ):,} of {len(served):,} trips: {example}"]


def _offline(platform: Platform, spec: FeatureSpec, trips: int) -> pd.DataFrame:
    """Holdout trips with their requests and the model's inputs, computed without the endpoint.

    Each location has its latest offline row, as the online tables have, so that features are
    frozen at the same instant on both sides; a row older than the lookback is not used.

    A holdout trip knows nothing of those rows, so each is asked for whole weeks later: from the
    newest row on, when a ride may use them all.
    """
    from pyspark.sql import functions as F

    held = _held(platform, trips)
    weeks = F.make_dt_interval(days=F.lit(7 * _weeks_until_known(platform, held)))
    frame = with_request_features(
        held.withColumn("pickup_datetime", F.col("pickup_datetime") + weeks)
    )
    for lookup in spec.lookups:
        name = lookup.table.rsplit(".", 1)[1]
        rows = latest(_rows(platform, schemas.TABLES[name]))
        rows = rows.select(F.col("location_id").alias(lookup.key), "known_at", *lookup.features)
        age = F.unix_micros("pickup_datetime") - F.unix_micros("known_at")
        limit = timedelta(days=lookup.lookback_days or MAX_DAYS) // timedelta(microseconds=1)
        looked_up = {
            feature: F.coalesce(F.when(age.between(0, limit), F.col(feature)), F.lit(default))
            for feature, default in lookup.defaults.items()
        }
        frame = frame.join(F.broadcast(rows), lookup.key, "left").withColumns(looked_up)
        frame = frame.drop("known_at")
    names = dict.fromkeys((*FIELDS, *spec.inputs))
    found: pd.DataFrame = frame.select(*names).toPandas()
    return found


def _weeks_until_known(platform: Platform, trips: DataFrame) -> int:
    """How many weeks later the first of the trips meets no feature row of the future."""
    from pyspark.sql import functions as F

    first = trips.agg(F.unix_micros(F.min("pickup_datetime")).alias("at")).collect()[0]["at"]
    newest = [
        _rows(platform, table).agg(F.unix_micros(F.max("known_at")).alias("at")).collect()[0]["at"]
        for table in (schemas.PICKUP_FEATURES, schemas.DROPOFF_FEATURES)
    ]
    late = max((at for at in newest if at is not None), default=0) - (first or 0)
    return max(math.ceil(late / (timedelta(days=7) // timedelta(microseconds=1))), 0)


def _rows(platform: Platform, table: schemas.Table) -> DataFrame:
    return platform.tables.read(table.name)


def _instant(micros: int | None) -> str | None:
    """Microseconds since 1970 as ISO text; wall clock, no zone."""
    if micros is None:
        return None
    return (datetime(1970, 1, 1) + timedelta(microseconds=micros)).isoformat(sep=" ")  # noqa: DTZ001


def _record(values: list[Any]) -> dict[str, Any]:
    pickup, dropoff, miles, at = values
    when: datetime = at
    return {
        "pickup_location_id": int(pickup),
        "dropoff_location_id": int(dropoff),
        "trip_distance": float(miles),
        "pickup_datetime": when.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _same(ours: float | None, theirs: float | None) -> bool:
    if ours is None or theirs is None:
        return ours is None and theirs is None
    return math.isclose(ours, theirs, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
