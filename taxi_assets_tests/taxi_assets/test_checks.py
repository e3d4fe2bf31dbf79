"""Checks of the endpoint, asked of a workspace over real sockets."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets import checks
from taxi_assets.resources.workspace import Workspace
from taxi_assets_tests.documents import databricks


@pytest.mark.parametrize(("seconds", "limit", "passed"), [(0.06, None, True), (0.02, 10.0, False)])
def test_the_limit_of_latency_is_that_of_the_target(
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    limit: float | None,
    passed: bool,
) -> None:
    """60 ms, mostly on the way, are no fault of an endpoint of Databricks."""
    if limit is not None:
        monkeypatch.setitem(checks.LATENCY_LIMITS, DATABRICKS, limit)

    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        if not path.endswith("/invocations"):
            return 200, {"name": "fares", "state": {"ready": "READY"}}
        time.sleep(seconds)
        return 200, {"predictions": [9.5]}

    with databricks(answers) as client:
        monkeypatch.setenv("DATABRICKS_HOST", client.config.host)
        monkeypatch.setenv("DATABRICKS_TOKEN", "a token")
        settings = Settings(home=tmp_path, platform=DATABRICKS)
        asked = dg.build_asset_check_context(
            resources={
                "platform": SimpleNamespace(settings=settings),
                "workspace": Workspace(settings),
            }
        )
        found: Any = checks.latency(asked)
    assert found.passed is passed
    assert found.metadata["median_ms"].value > seconds * 1000
