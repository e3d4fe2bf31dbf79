"""An endpoint that sleeps, or has just been made, as Databricks': waited for, and told."""

from __future__ import annotations

import time
from typing import Any

import pytest

from databricks_steps.errors import ServingError
from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets.deployment import endpoint
from taxi_assets_tests.documents import databricks

REMOTE = Settings(platform=DATABRICKS)
READY = {"ready": "READY", "config_update": "NOT_UPDATING"}
COLD = {"ready": "NOT_READY", "config_update": "NOT_UPDATING"}
WAKES = 2.5  # seconds; the client's own patience is less


@pytest.mark.parametrize("asleep", ["slow", "503", "504"])
def test_the_first_request_wakes_an_endpoint_and_is_answered(asleep: str) -> None:
    wakes_at = time.monotonic() + WAKES

    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        if time.monotonic() < wakes_at:
            if asleep == "503":
                return 503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "scaling up"}
            if asleep == "504":
                return 504, {"error_code": "DEADLINE_EXCEEDED", "message": "upstream timeout"}
            time.sleep(2 * WAKES)
        return 200, {"predictions": [9.5]}

    with databricks(answers) as client:
        assert endpoint.query(client, REMOTE, {"dataframe_records": [{}]}) == [9.5]


def test_an_endpoint_that_was_made_right_now_is_not_ready_and_is_waited_for() -> None:
    states = [None, COLD, COLD, READY]
    wanted = endpoint.endpoint_config(REMOTE, "1")

    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        state = states.pop(0) if method == "GET" and len(states) > 1 else states[0]
        if state is None:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no endpoint"}
        shown = {"name": REMOTE.endpoint, "state": state, "config": wanted["config"]}
        return 200, shown | {"ai_gateway": wanted["ai_gateway"]}

    with databricks(answers) as client:
        found = endpoint.ensure_endpoint(client, REMOTE, "1", timeout=20)
    assert (found.action, found.state) == ("created", "READY")


def test_an_endpoint_that_stays_cold_is_given_up_with_its_state() -> None:
    wanted = endpoint.endpoint_config(REMOTE, "1")
    shown = {"name": REMOTE.endpoint, "state": COLD, "config": wanted["config"]}
    with (
        databricks(lambda method, path, body: (200, shown)) as client,
        pytest.raises(ServingError, match="NOT_READY"),
    ):
        endpoint.ensure_endpoint(client, REMOTE, "1", timeout=1)
