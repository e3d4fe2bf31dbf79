"""`deploy --plan` says what is missing or different, `deploy` makes it, and neither twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from databricks_steps.errors import ServingError
from taxi_assets.deployment import online_store, plan
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import Workspace

PICKUP, DROPOFF = (f"p03.e2e_demo_simon.{side}_features" for side in ("pickup", "dropoff"))
ENDPOINT = "mlops-taxi-fare-endpoint"
CAPTURE = "p03.e2e_demo_simon.taxi_fare_endpoint_payload"


def said(changes: tuple[plan.Change, ...]) -> list[str]:
    return [str(change) for change in changes]


@pytest.fixture
def empty(start: Callable[..., Workspace]) -> Workspace:
    return start()


def test_an_empty_workspace_gets_everything_once(empty: Workspace) -> None:
    client, settings = empty.client, empty.settings
    model = f"{settings.registered_model} version 1"
    missing = [
        "+ create    online store taxi-online-store: capacity CU_1",
        f"+ create    online table {PICKUP}_online: from {PICKUP}",
        f"+ create    online table {DROPOFF}_online: from {DROPOFF}",
        f"+ create    serving endpoint {ENDPOINT}: {model}",
        f"+ create    payload capture {ENDPOINT}: {CAPTURE}",
    ]
    assert said(plan.plan(client, settings, "1")) == missing
    assert said(plan.plan(client, settings, "1")) == missing  # a plan touches nothing
    assert said(plan.deploy(client, settings, "1")) == missing
    unchanged = [
        "= unchanged online store taxi-online-store",
        f"= unchanged online table {PICKUP}_online",
        f"= unchanged online table {DROPOFF}_online",
        f"= unchanged serving endpoint {ENDPOINT}",
        f"= unchanged payload capture {ENDPOINT}",
    ]
    assert said(plan.plan(client, settings, "1")) == unchanged
    assert said(plan.deploy(client, settings, "1")) == unchanged


def test_what_differs_is_named_and_brought_back(empty: Workspace) -> None:
    client, settings = empty.client, empty.settings
    plan.deploy(client, settings, "1")
    client.feature_store.delete_online_store(settings.online_store)
    elsewhere = replace(settings, payload_prefix="other")
    found = said(plan.plan(client, elsewhere, "2"))
    assert found == [
        "+ create    online store taxi-online-store: capacity CU_1",
        f"+ create    online table {PICKUP}_online: from {PICKUP}",
        f"+ create    online table {DROPOFF}_online: from {DROPOFF}",
        f"~ update    serving endpoint {ENDPOINT}: served_entities[0].entity_version 1 -> 2",
        f"~ update    payload capture {ENDPOINT}: table_name_prefix taxi_fare_endpoint -> other",
    ]
    plan.deploy(client, elsewhere, "2")
    signs = {change.sign for change in plan.plan(client, elsewhere, "2")}
    assert signs == {plan.UNCHANGED}
    assert plan.plan(client, settings, "1")[3].detail.endswith("entity_version 2 -> 1")


def test_a_token_that_is_refused_is_one_error(empty: Workspace) -> None:
    stranger = online_store.workspace_client(empty.settings.host, "not-the-token")
    with pytest.raises(ServingError, match=r"The workspace must tell what is deployed: .*token"):
        plan.plan(stranger, empty.settings, "1")
