"""What the orchestrator keeps in a workspace: online tables, endpoint, capture, its monitor.

`plan` says what would change and touches nothing; `deploy` does it, and changes nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from databricks_steps.errors import ServingError, reason
from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets.deployment import online_store, quality_monitor
from taxi_assets.deployment.endpoint import differences, endpoint_config, ensure_endpoint, find
from taxi_assets.deployment.retries import patiently

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.serving import ServingEndpointDetailed

UNCHANGED = "="
WORDS = {"+": "create", "~": "update", UNCHANGED: "unchanged"}


@dataclass(frozen=True)
class Change:
    """One resource, and what becomes of it; `detail` says what is different."""

    sign: Literal["+", "~", "="]
    kind: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        said = f"{self.sign} {WORDS[self.sign]:<10}{self.kind} {self.name}"
        return f"{said}: {self.detail}" if self.detail else said


def plan(client: WorkspaceClient, settings: Settings, version: str) -> tuple[Change, ...]:
    """What `deploy` would do for a model version, in the order in which it would.

    Raises:
        ServingError: the workspace does not answer, or does not let these credentials look.
    """
    wanted = endpoint_config(settings, version)
    try:
        return (
            _store(client, settings),
            *_tables(client, settings),
            *_endpoint(find(client, settings.endpoint), wanted),
            *_monitor(client, settings),
        )
    except OSError as error:  # those of the SDK and of requests all are
        raise ServingError(
            "The workspace must tell what is deployed",
            reason(error),
            "Correct host, credentials or grants: docs/databricks.md",
        ) from error


def deploy(client: WorkspaceClient, settings: Settings, version: str) -> tuple[Change, ...]:
    """Carry the plan out, and give it back; a second time it changes nothing.

    Raises:
        ServingError: as `plan`, or a resource cannot be made; those before it stay as made.
    """
    changes = plan(client, settings, version)
    online_store.ensure_online_store(client, settings)
    stale = {c.name for c in changes if c.kind == "online table" and c.sign != UNCHANGED}
    for table in online_store.TABLES:
        if online_store.online_table_name(settings, table) in stale:
            online_store.publish(client, settings, table)
    ensure_endpoint(client, settings, version)
    quality_monitor.ensure(client, settings)
    return changes


def _store(client: WorkspaceClient, settings: Settings) -> Change:
    from databricks.sdk.errors import NotFound

    name = settings.online_store
    try:
        patiently(lambda: client.feature_store.get_online_store(name))
    except NotFound:
        return Change("+", "online store", name, f"capacity {online_store.CAPACITY}")
    return Change("=", "online store", name)


def _tables(client: WorkspaceClient, settings: Settings) -> Iterator[Change]:
    published = online_store.published_columns(client, settings)
    for table in online_store.TABLES:
        name = online_store.online_table_name(settings, table)
        columns = published[settings.table(table.name)]
        if columns is None:
            yield Change("+", "online table", name, f"from {settings.table(table.name)}")
            continue
        lacking = sorted({column.name for column in table.features} - set(columns))
        if lacking:
            yield Change("~", "online table", name, f"lacks {', '.join(lacking)}")
        else:
            yield Change("=", "online table", name)


def _endpoint(found: ServingEndpointDetailed | None, wanted: dict[str, Any]) -> Iterator[Change]:
    name, capture = wanted["name"], wanted["ai_gateway"]["inference_table_config"]
    table = "{catalog_name}.{schema_name}.{table_name_prefix}_payload".format(**capture)
    if found is None:
        entity = wanted["config"]["served_entities"][0]
        version = f"{entity['entity_name']} version {entity['entity_version']}"
        yield Change("+", "serving endpoint", name, version)
        yield Change("+", "payload capture", name, table)
        return
    active = found.config.as_dict() if found.config else {}
    different = list(differences(active, wanted["config"]))
    yield Change("~" if different else "=", "serving endpoint", name, "; ".join(different))
    gateway = found.ai_gateway.inference_table_config if found.ai_gateway else None
    kept = gateway.as_dict() if gateway else {}
    different = list(differences(kept, capture))
    yield Change("~" if different else "=", "payload capture", name, "; ".join(different))


def _monitor(client: WorkspaceClient, settings: Settings) -> Iterator[Change]:
    """Nothing where there is none to keep: before the table, and on the embedded platform."""
    if settings.platform != DATABRICKS:
        return
    table_id, monitor = quality_monitor.found(client, settings)
    if table_id is None:
        return
    name = settings.table(quality_monitor.TABLE.name)
    if monitor is None:
        yield Change("+", "monitor", name, "daily, by model version")
        return
    different = list(quality_monitor.different(settings, monitor))
    yield Change("~" if different else "=", "monitor", name, "; ".join(different))
