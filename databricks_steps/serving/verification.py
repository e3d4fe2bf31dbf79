"""What the serving side is checked against: latest offline rows, and fares computed offline."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.features.lookups import LOOKUPS
from databricks_steps.features.request import with_request_features
from databricks_steps.ports import Platform
from databricks_steps.serving.online import online_table_name
from databricks_steps.serving.scorer import Scorer
from databricks_steps.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from databricks.sdk import WorkspaceClient
    from pyspark.sql import DataFrame

TOLERANCE = 1e-9
REQUEST = ("pickup_location_id", "dropoff_location_id", "trip_distance", "pickup_datetime")


def latest(rows: DataFrame) -> DataFrame:
    """The latest row of each location: what an online table holds."""
    from pyspark.sql import functions as F  # noqa: N812

    others = [name for name in rows.columns if name != "location_id"]
    newest = F.max_by(F.struct(*others), "known_at").alias("newest")
    return rows.groupBy("location_id").agg(newest).select("location_id", "newest.*")


def online_rows(
    client: WorkspaceClient, settings: Settings, table: schemas.Table
) -> dict[int, dict[str, Any]]:
    """Location → what the online table holds for it."""
    name = online_table_name(settings, table)
    answer = client.api_client.do("GET", f"/api/2.0/taxi/online-tables/{name}/rows")
    assert isinstance(answer, dict)  # noqa: S101 the SDK gives a list only for list bodies
    return {int(location): row for location, row in answer["rows"].items()}


def differences(
    client: WorkspaceClient, platform: Platform, table: schemas.Table
) -> tuple[int, list[str]]:
    """Locations compared, and a sentence for each place where online and offline differ."""
    online = online_rows(client, platform.settings, table)
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
    return len(online.keys() | offline.keys()), wrong


def feature_age(
    client: WorkspaceClient, platform: Platform, table: schemas.Table
) -> tuple[str | None, str | None]:
    """`known_at` of the newest row online and offline, as ISO text."""
    from pyspark.sql import functions as F  # noqa: N812

    online = online_rows(client, platform.settings, table)
    newest = max((row["known_at"] for row in online.values()), default=None)
    found = _rows(platform, table).agg(F.unix_micros(F.max("known_at")).alias("at")).first()
    return _instant(newest), _instant(found["at"] if found else None)


def parity_requests(
    platform: Platform, model: Path, trips: int
) -> tuple[dict[str, Any], list[float]]:
    """A request of some trips of the newest month, and the fares the offline path gives them.

    The offline path takes the latest offline row of each location, as the online tables do,
    so that features are frozen at the same instant on both sides.
    """
    from pyspark.sql import functions as F  # noqa: N812

    newest = platform.tables.months("trips")[-1:]
    sample = platform.tables.read("trips", newest).orderBy(F.xxhash64("trip_id")).limit(trips)
    frame = with_request_features(sample)
    for lookup in LOOKUPS:
        rows = latest(_rows(platform, lookup.table)).select("location_id", *lookup.features)
        frame = frame.join(
            F.broadcast(rows.withColumnRenamed("location_id", lookup.key)), lookup.key, "left"
        ).fillna({name: float(value) for name, value in lookup.defaults.items()})
    scorer = Scorer.load(model)
    found = frame.select(*REQUEST, *scorer.spec.inputs[1:]).toPandas()
    fares = scorer.predict(found[list(scorer.spec.inputs)].to_numpy(dtype="float32"))
    return {"dataframe_records": [_record(row) for row in found[list(REQUEST)].values.tolist()]}, (
        fares.tolist()
    )


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
