"""Which model version each served entity is or was: `system.serving.served_entities`, as there.

A captured request names the entity that answered it, and entities are made anew with every update
of an endpoint. So they are remembered when they are made, and written beside the payloads.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from databricks_steps.settings import Settings
from taxi_assets.emulator.runtime.state import State

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "system.serving.served_entities"
KIND = "served_entity"
_ID = "served_entity_id"


def remember(memory: State, endpoint: dict[str, Any], config: dict[str, Any]) -> None:
    """Keep the entities of an endpoint's configuration, whatever becomes of the endpoint."""
    for entity in config["served_entities"]:
        told = {
            _ID: entity["id"],
            "endpoint_id": endpoint["id"],
            "endpoint_name": endpoint["name"],
            "served_entity_name": entity["name"],
            "entity_type": "CUSTOM_MODEL",
            "entity_name": entity["entity_name"],
            "entity_version": str(entity["entity_version"]),
            "endpoint_config_version": config["config_version"],
            "change_time": entity["creation_timestamp"],
        }
        memory.put(KIND, entity["id"], told)


def write(settings: Settings, memory: State) -> int:
    """Append the entities that the table lacks; answers how many."""
    from deltalake import DeltaTable, write_deltalake

    path = settings.table_path(TABLE)
    written: set[str] = set()
    if DeltaTable.is_deltatable(str(path)):
        ids = DeltaTable(str(path)).to_pyarrow_table(columns=[_ID]).column(_ID)
        written = set(ids.to_pylist())
    new = [told for name, told in memory.all(KIND).items() if name not in written]
    if new:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_deltalake(
            str(path),
            _table(new),
            mode="append",
            name="served_entities",
            description="Model versions behind the served entities of all endpoints",
        )
    return len(new)


def _table(entities: list[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {
        name: pa.array([str(entity[name]) for entity in entities], pa.string())
        for name in entities[0]
        if name not in ("endpoint_config_version", "change_time")
    }
    numbers = [entity["endpoint_config_version"] for entity in entities]
    times = [
        datetime.fromtimestamp(entity["change_time"] / 1000, timezone.utc) for entity in entities
    ]
    columns["endpoint_config_version"] = pa.array(numbers, pa.int32())
    columns["change_time"] = pa.array(times, pa.timestamp("us", "UTC"))
    return pa.table(columns)
