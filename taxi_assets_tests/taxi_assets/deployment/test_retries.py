"""A workspace that is busy or broken is asked again; where that is in vain, it is one error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from databricks.sdk import WorkspaceClient

from databricks_steps import schemas
from databricks_steps.errors import ServingError
from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets.deployment import endpoint, online_store, plan, quality_monitor, retries
from taxi_assets.resources.workspace import Workspace
from taxi_assets_tests.documents import databricks, refused

REMOTE = Settings(platform=DATABRICKS)
SERVED = {
    **endpoint.endpoint_config(REMOTE, "1"),
    "state": {"ready": "READY", "config_update": "NOT_UPDATING"},
}
CATALOG, QUALITY = "/api/2.1/unity-catalog", "/api/data-quality/v1/monitors/table/7"
SYNCED = {"update_id": "u", "pipeline_id": "p", "state": "COMPLETED", "creation_time": 2**50}
# The end of a path → what is answered there.
DOCUMENTS: Mapping[str, Any] = {
    f"/online-stores/{REMOTE.online_store}": {"name": REMOTE.online_store, "state": "AVAILABLE"},
    "/publish": {"pipeline_id": "p", "online_table_name": "n"},
    "/pipelines/p/updates": {"updates": [SYNCED]},
    f"/serving-endpoints/{REMOTE.endpoint}": SERVED,
    "_features_online": {"columns": []},
    ".endpoint_payloads": {"table_id": "7"},
    f"/schemas/{REMOTE.catalog}.{REMOTE.schema}": {"schema_id": "3"},
    "/refreshes": {},
    "/table/7": {"data_profiling_config": {}},
}


def described(client: WorkspaceClient) -> object:
    workspace = Workspace(REMOTE)
    workspace.client = client  # else it were that of the environment
    return workspace.endpoint()


CALLS: Mapping[str, Callable[[WorkspaceClient], object]] = {
    "published": lambda client: online_store.published_columns(client, REMOTE),
    "store": lambda client: online_store.ensure_online_store(client, REMOTE),
    "publish": lambda client: online_store.publish(client, REMOTE, schemas.PICKUP_FEATURES),
    "sync": lambda client: online_store.await_sync(client, "p", None),
    "endpoint": lambda client: endpoint.ensure_endpoint(client, REMOTE, "1"),
    "plan": lambda client: plan.plan(client, REMOTE, "1"),
    "monitor": lambda client: quality_monitor.ensure(client, REMOTE),
    "refreshes": lambda client: quality_monitor.read(client, REMOTE),
    "workspace": described,
}


def outcomes(client: WorkspaceClient) -> dict[str, str]:
    """By call: nothing where it went well, or what was raised. They go side by side: all wait."""

    def outcome(call: Callable[[WorkspaceClient], object]) -> str:
        try:
            call(client)
        except ServingError as error:
            return str(error.value)
        return ""

    with ThreadPoolExecutor(len(CALLS)) as pool:
        return dict(zip(CALLS, pool.map(outcome, CALLS.values()), strict=True))


def test_a_refusal_of_a_moment_ends_nothing() -> None:
    asked: set[tuple[str, str]] = set()

    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        path = urlsplit(path).path
        if (method, path) not in asked:
            asked.add((method, path))
            return refused(500)
        return 200, next(told for end, told in DOCUMENTS.items() if path.endswith(end))

    with databricks(answers) as client:
        assert outcomes(client) == dict.fromkeys(CALLS, "")
    assert len(asked) >= len(DOCUMENTS)


@pytest.mark.parametrize("status", [429, 500])
def test_a_refusal_for_good_is_one_error_that_says_why(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "PATIENCE", timedelta(seconds=1))
    with databricks(lambda method, path, body: refused(status)) as client:
        found = outcomes(client)
    assert {n: told for n, told in found.items() if not told.endswith(f"no: {status}")} == {}
