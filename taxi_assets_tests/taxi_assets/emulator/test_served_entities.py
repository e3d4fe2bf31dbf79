"""The table that says which version a served entity was: it outlives updates and endpoints."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from deltalake import DeltaTable

from databricks_steps.settings import Settings
from taxi_assets.emulator.runtime import capture, served_entities, state
from taxi_assets.emulator.runtime.state import State

ENDPOINT = {"id": "e1", "name": "taxi"}
NOON = datetime(2026, 11, 25, 12, tzinfo=timezone.utc)


@pytest.fixture
def memory(settings: Settings) -> State:
    return State(state.database(settings))


def config(number: int, *versions: str) -> dict[str, Any]:
    entities = [
        {
            "id": f"entity-{number}-{version}",
            "name": f"fares-{version}",
            "entity_name": "p03.x.fares",
            "entity_version": version,
            "creation_timestamp": int(NOON.timestamp() * 1000) + number,
        }
        for version in versions
    ]
    return {"config_version": number, "served_entities": entities}


def written(settings: Settings) -> list[tuple[Any, ...]]:
    table = DeltaTable(str(settings.table_path(served_entities.TABLE))).to_pyarrow_table()
    rows = table.sort_by("served_entity_id").to_pylist()
    names = ("served_entity_id", "served_entity_name", "entity_version", "endpoint_config_version")
    assert {row["entity_name"] for row in rows} == {"p03.x.fares"}
    assert {row["endpoint_name"] for row in rows} == {"taxi"}
    return [tuple(row[name] for name in names) for row in rows]


def test_entities_of_every_configuration_are_kept(settings: Settings, memory: State) -> None:
    assert served_entities.write(settings, memory) == 0
    assert not settings.table_path(served_entities.TABLE).exists()
    served_entities.remember(memory, ENDPOINT, config(1, "1"))
    assert served_entities.write(settings, memory) == 1
    served_entities.remember(memory, ENDPOINT, config(2, "1", "2"))
    served_entities.remember(memory, ENDPOINT, config(2, "1", "2"))
    assert served_entities.write(settings, memory) == 2
    assert served_entities.write(settings, memory) == 0
    assert written(settings) == [
        ("entity-1-1", "fares-1", "1", 1),
        ("entity-2-1", "fares-1", "1", 2),
        ("entity-2-2", "fares-2", "2", 2),
    ]


def test_payloads_are_written_even_where_entities_cannot_be(
    settings: Settings, memory: State
) -> None:
    blocked = settings.table_path(served_entities.TABLE)
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where the table's folder should be")
    served_entities.remember(memory, ENDPOINT, config(1, "1"))
    memory.buffer({"a.b.c_payload": [("id", None, 0, 200, 1, "{}", "{}", "e", "[]", None)]})
    assert capture.flush(settings, memory) == 1
    blocked.unlink()
    assert capture.flush(settings, memory) == 0
    assert written(settings) == [("entity-1-1", "fares-1", "1", 1)]
