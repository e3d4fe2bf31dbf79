"""Times Feast's SQLite online store on the same rows; run by the Python that has Feast.

Usage: PYTHON _feast_lookup.py ROWS_FILE SECONDS, prints JSON. Nothing of the project is imported.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64


def main(rows_file: str, seconds: float) -> None:
    """`rows_file` is JSON: table → {"key", "features", "rows": {location: [values]}}."""
    tables = json.loads(Path(rows_file).read_text())
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(
            config=RepoConfig(
                project="taxi",
                provider="local",
                registry=f"{folder}/registry.db",
                online_store={"type": "sqlite", "path": f"{folder}/online.db"},
                entity_key_serialization_version=3,
            )
        )
        features, entities = [], {}
        for name, table in tables.items():
            features += _register(store, Path(folder), name, table)
            entities[table["key"]] = [int(next(iter(table["rows"])))]
        ask = [{key: values[0] for key, values in entities.items()}]
        print(json.dumps({"p50_us": _timed(store, features, ask, seconds)}))


def _register(store: FeatureStore, folder: Path, name: str, table: dict) -> list[str]:
    key, now = table["key"], datetime.now(timezone.utc)
    frame = pd.DataFrame(
        [[int(location), *map(float, values)] for location, values in table["rows"].items()],
        columns=[key, *table["features"]],
    )
    frame["event_timestamp"] = frame["created"] = now
    file = folder / f"{name}.parquet"
    frame.to_parquet(file)
    entity = Entity(name=key, join_keys=[key])
    view = FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(days=7),
        schema=[Field(name=feature, dtype=Float64) for feature in table["features"]],
        source=FileSource(
            path=str(file), timestamp_field="event_timestamp", created_timestamp_column="created"
        ),
    )
    store.apply([entity, view])
    store.write_to_online_store(name, frame)
    return [f"{name}:{feature}" for feature in table["features"]]


def _timed(store: FeatureStore, features: list[str], ask: list[dict], seconds: float) -> float:
    answer = store.get_online_features(features=features, entity_rows=ask).to_dict()
    if any(values[0] is None for values in answer.values()):
        raise SystemExit(f"Feast found no row: {answer}")
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter_ns()
        store.get_online_features(features=features, entity_rows=ask)
        times.append(time.perf_counter_ns() - started)
    return statistics.median(times) / 1000


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
