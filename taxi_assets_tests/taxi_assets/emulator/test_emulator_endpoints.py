"""The life of an endpoint, by the official SDK: create, update, fail, swap, restart, end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import requests
from databricks.sdk.errors import BadRequest, InvalidParameterValue, NotFound, ResourceDoesNotExist
from databricks.sdk.errors.platform import ResourceAlreadyExists
from databricks.sdk.service.ml import OnlineStore, PublishSpec
from databricks.sdk.service.serving import (
    AiGatewayInferenceTableConfig,
    AiGatewayRateLimit,
    AiGatewayRateLimitRenewalPeriod,
    AiGatewayUsageTrackingConfig,
    EndpointCoreConfigInput,
    EndpointStateConfigUpdate,
    EndpointStateReady,
    ServedEntityInput,
    ServingEndpointDetailed,
)

from databricks_steps import schemas
from databricks_steps.errors import ServingError
from taxi_assets.deployment import endpoint, online_store
from taxi_assets.emulator import process
from taxi_assets.emulator.runtime import online_tables, served_model, state
from taxi_assets.emulator.runtime.online_tables import OnlineTables
from taxi_assets.emulator.runtime.state import State
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import (
    TRIP,
    Workspace,
    kill,
    serve,
)
from taxi_assets_tests.waiting import until

pytestmark = pytest.mark.slow  # emulators that start and stop
MINUTE = timedelta(minutes=1)


def config(workspace: Workspace, version: str) -> EndpointCoreConfigInput:
    name = workspace.settings.registered_model
    return EndpointCoreConfigInput(
        served_entities=[ServedEntityInput(entity_name=name, entity_version=version)]
    )


def states(found: ServingEndpointDetailed) -> tuple[str, str]:
    assert found.state is not None
    assert found.state.ready is not None
    assert found.state.config_update is not None
    return found.state.ready.value, found.state.config_update.value


def fare(workspace: Workspace, name: str) -> float:
    (answer,) = workspace.client.serving_endpoints.query(name, dataframe_records=[TRIP]).predictions
    return float(answer)


def test_online_stores_live_and_end(workspace: Workspace) -> None:
    api = workspace.client.feature_store
    with pytest.raises(NotFound, match="Online store does not exist: mine"):
        api.get_online_store("mine")
    made = api.create_online_store(OnlineStore("mine", "CU_2"))
    assert (made.name, made.capacity, made.state and made.state.value) == (
        "mine",
        "CU_2",
        "AVAILABLE",
    )
    assert api.get_online_store("mine") == made
    with pytest.raises(ResourceAlreadyExists, match="mine exists"):
        api.create_online_store(made)
    with pytest.raises(InvalidParameterValue, match="capacity"):
        api.create_online_store(OnlineStore("other", "CU_3"))
    spec = PublishSpec("none", "a.b.c")
    with pytest.raises(NotFound, match="none"):
        api.publish_table(workspace.settings.table("pickup_features"), spec)
    api.delete_online_store("mine")
    with pytest.raises(NotFound, match="Online store does not exist: mine"):
        api.get_online_store("mine")


def test_an_endpoint_without_published_tables_says_so(workspace: Workspace) -> None:
    api = workspace.client.serving_endpoints
    api.create_and_wait("early", config=config(workspace, "1"), timeout=MINUTE)
    with pytest.raises(NotFound, match=r"online table of p03.e2e_demo_simon.pickup_features"):
        fare(workspace, "early")
    api.delete("early")
    with pytest.raises(ResourceDoesNotExist, match="early"):
        fare(workspace, "early")


def test_the_functions_are_safe_to_repeat(served: Workspace) -> None:
    client, settings = served.client, served.settings
    again = endpoint.ensure_endpoint(client, settings, "1")
    assert (again.action, again.version, again.state) == ("unchanged", "1", "READY")
    assert again.url == f"{settings.host}/serving-endpoints/{settings.endpoint}/invocations"
    assert client.serving_endpoints.get(settings.endpoint).config.config_version == 1
    assert online_store.ensure_online_store(client, settings) == online_store.ensure_online_store(
        client, settings
    )
    first, second = (
        online_store.publish(client, settings, schemas.PICKUP_FEATURES) for _ in range(2)
    )
    assert first.online_table == "p03.e2e_demo_simon.pickup_features_online"
    assert (first.online_table, first.pipeline_id) == (second.online_table, second.pipeline_id)
    shown = client.api_client.do("GET", f"/api/2.0/taxi/online-tables/{first.online_table}")
    assert (shown["mode"], shown["rows"], shown["version"]) == ("unchanged", 7, 0)
    gateway = client.serving_endpoints.get(settings.endpoint).ai_gateway
    assert gateway is not None
    assert gateway.inference_table_config == AiGatewayInferenceTableConfig(
        "p03", True, "e2e_demo_simon", "taxi_fare_endpoint"
    )


def test_create_update_fail_and_delete_by_the_sdk(served: Workspace) -> None:
    api = served.client.serving_endpoints
    made = api.create_and_wait("life", config=config(served, "1"), timeout=MINUTE)
    assert states(made) == ("READY", "NOT_UPDATING")
    first = fare(served, "life")
    assert [found.name for found in api.list()] == ["life", served.settings.endpoint]
    with pytest.raises(ResourceAlreadyExists, match="life exists"):
        api.create("life", config=config(served, "1"))
    api.update_config_and_wait(
        "life", served_entities=config(served, "2").served_entities, timeout=MINUTE
    )
    second = fare(served, "life")
    assert second != pytest.approx(first, abs=0.5)
    with pytest.raises(Exception, match="UPDATE_FAILED"):
        api.update_config_and_wait(
            "life", served_entities=config(served, "9").served_entities, timeout=MINUTE
        )
    failed = api.get("life")
    assert states(failed) == ("READY", "UPDATE_FAILED")
    (entity,) = failed.pending_config.served_entities
    assert entity.state.deployment.value == "DEPLOYMENT_FAILED"
    assert "9" in entity.state.deployment_state_message
    assert fare(served, "life") == second
    api.delete("life")
    with pytest.raises(NotFound, match="life"):
        api.get("life")


def test_ensure_endpoint_says_why_an_update_failed(served: Workspace) -> None:
    before = fare(served, served.settings.endpoint)
    with pytest.raises(
        ServingError, match=r"UPDATE_FAILED: .* must be in the registry: .* version 77\."
    ):
        endpoint.ensure_endpoint(served.client, served.settings, "77", timeout=60)
    assert fare(served, served.settings.endpoint) == before
    assert endpoint.ensure_endpoint(served.client, served.settings, "1").action == "updated"
    with pytest.raises(ServingError, match=r"trip_distance must be a number above 0.*: -1"):
        endpoint.query(
            served.client, served.settings, {"instances": [{**TRIP, "trip_distance": -1}]}
        )


BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"served_entities": []}, "served_entities"),
    ({"served_entities": [{"entity_name": "m", "entity_version": "1"}]}, "three levels"),
    ({"served_entities": [{"entity_name": "../a.b.c", "entity_version": "1"}]}, "three levels"),
    ({"served_entities": [{"entity_name": "a.b.c", "entity_version": "../1"}]}, "whole number"),
    ({"served_entities": [{"entity_name": "a.b.c"}]}, "entity_version"),
    ({"served_entities": [{"name": "a/b", "entity_name": "a.b.c", "entity_version": "1"}]}, "name"),
    (
        {
            "served_entities": [{"name": "m", "entity_name": "a.b.c", "entity_version": "1"}],
            "traffic_config": {"routes": [{"served_model_name": "m", "traffic_percentage": 90}]},
        },
        "add up to 100: 90",
    ),
    (
        {
            "served_entities": [{"name": "m", "entity_name": "a.b.c", "entity_version": "1"}],
            "traffic_config": {"routes": [{"served_model_name": "n", "traffic_percentage": 100}]},
        },
        "Routes lead to served entities",
    ),
    (
        {"served_entities": [{"entity_name": "a.b.c", "entity_version": v} for v in "12"]},
        "at most 1 item",
    ),
]


@pytest.mark.parametrize(("body", "message"), BAD_CONFIGS)
def test_a_wrong_configuration_is_refused(
    served: Workspace, body: dict[str, Any], message: str
) -> None:
    for method, path, sent in (
        ("POST", "/api/2.0/serving-endpoints", {"name": "bad", "config": body}),
        ("PUT", f"/api/2.0/serving-endpoints/{served.settings.endpoint}/config", body),
    ):
        with pytest.raises(BadRequest, match=message):
            served.client.api_client.do(method, path, body=sent)
    assert states(served.client.serving_endpoints.get(served.settings.endpoint))[0] == "READY"


@pytest.mark.parametrize(
    "free", [{"limit": 2**70}, {"text": "\ud800"}, {"\ud800": 1}, {"deep": [{"\ud800": [1 << 64]}]}]
)
def test_what_json_cannot_keep_is_refused_where_a_body_is_free(
    served: Workspace, free: dict[str, Any]
) -> None:
    gateway = served.client.serving_endpoints.get(served.settings.endpoint).ai_gateway
    many = {"spark_version": "18.x", "autoscale": {"max_workers": 1 << 64}}
    task = {"task_key": "step", "new_cluster": free, "spark_python_task": {"python_file": "a.py"}}
    for method, path, sent in (
        ("PUT", f"/api/2.0/serving-endpoints/{served.settings.endpoint}/ai-gateway", free),
        ("POST", "/api/2.1/clusters/create", many),
        ("POST", "/api/2.2/jobs/runs/submit", {"tasks": [task]}),
        ("POST", "/api/2.2/jobs/runs/submit", {"tasks": [task | {"libraries": [free]}]}),
    ):
        answer = requests.request(
            method,
            f"{served.settings.host}{path}",
            json=sent,
            headers={"Authorization": f"Bearer {served.token}"},
            timeout=10,
        )
        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert served.client.serving_endpoints.get(served.settings.endpoint).ai_gateway == gateway


def test_a_restart_loses_nothing_and_needs_no_registry(start: Callable[[], Workspace]) -> None:
    workspace = start()
    serve(workspace)
    api, name = workspace.client.serving_endpoints, workspace.settings.endpoint
    before, answer = api.get(name), fare(workspace, name)
    api.create("begun", config=config(workspace, "2"))
    kill(workspace.settings)
    process.ensure_running(workspace.settings)  # and it goes on with the load it had begun
    api.wait_get_serving_endpoint_not_updating("begun", timeout=MINUTE)
    assert fare(workspace, "begun") != pytest.approx(answer, abs=0.5)
    online_before = OnlineTables(online_tables.database(workspace.settings)).published()
    assert process.stop(workspace.settings)
    for file in workspace.settings.home.glob("mlflow.db*"):
        file.unlink()
    process.ensure_running(workspace.settings)
    assert api.get(name) == before
    assert fare(workspace, name) == answer
    assert OnlineTables(online_tables.database(workspace.settings)).published() == online_before
    with pytest.raises(ServingError, match="There is no model registry"):
        endpoint.ensure_endpoint(workspace.client, workspace.settings, "2", timeout=60)
    assert fare(workspace, name) == answer


def test_a_start_without_the_models_copy_makes_it_anew(start: Callable[[], Workspace]) -> None:
    workspace = start()
    serve(workspace)
    name = workspace.settings.endpoint
    answer = fare(workspace, name)
    process.stop(workspace.settings)
    shutil.rmtree(workspace.settings.home / "workspace" / "models")
    process.ensure_running(workspace.settings)
    endpoint.ensure_endpoint(workspace.client, workspace.settings, "1", timeout=60)
    assert fare(workspace, name) == answer


def test_of_the_copies_those_stay_that_serve(start: Callable[[], Workspace]) -> None:
    workspace = start()
    serve(workspace)
    settings = workspace.settings
    copies = served_model.folder(settings, settings.registered_model, "")
    answer = fare(workspace, settings.endpoint)
    for version in ("2", "1"):
        endpoint.ensure_endpoint(workspace.client, settings, version, timeout=60)
        until(lambda: {copy.name for copy in copies.iterdir()} == {version})  # noqa: B023
        assert not list(copies.rglob("*.skops"))
    assert fare(workspace, settings.endpoint) == answer


def test_an_endpoint_deleted_while_it_loads_stays_away(served: Workspace) -> None:
    api, memory = served.client.serving_endpoints, State(state.database(served.settings))
    for _ in range(3):
        api.create("brief", config=config(served, "2"))
        api.delete("brief")
        time.sleep(0.5)
        with pytest.raises(NotFound):
            api.get("brief")
        assert memory.get("endpoint", "brief") is None


def test_a_first_version_that_fails_never_becomes_ready(workspace: Workspace) -> None:
    api = workspace.client.serving_endpoints
    api.create("doomed", config=config(workspace, "9"))
    until(lambda: states(api.get("doomed"))[1] != "IN_PROGRESS")
    state = api.get("doomed").state
    assert state.ready is EndpointStateReady.NOT_READY
    assert state.config_update is EndpointStateConfigUpdate.UPDATE_FAILED
    with pytest.raises(BadRequest, match="doomed failed"):
        fare(workspace, "doomed")
    api.delete("doomed")


def test_payloads_are_captured_elsewhere_and_what_an_administrator_set_stays(
    served: Workspace,
) -> None:
    client, settings = served.client, served.settings
    api = client.serving_endpoints
    before = api.get(settings.endpoint).ai_gateway
    assert before is not None
    limit = AiGatewayRateLimit(calls=7, renewal_period=AiGatewayRateLimitRenewalPeriod.MINUTE)
    usage = AiGatewayUsageTrackingConfig(enabled=True)
    api.put_ai_gateway(
        settings.endpoint,
        inference_table_config=before.inference_table_config,
        rate_limits=[limit],
        usage_tracking_config=usage,
    )
    for prefix in ("elsewhere", settings.payload_prefix):
        endpoint.ensure_endpoint(client, replace(settings, payload_prefix=prefix), "1")
        found = api.get(settings.endpoint).ai_gateway
        assert found is not None
        assert found.inference_table_config is not None
        assert found.inference_table_config.table_name_prefix == prefix
        assert found.inference_table_config.enabled
        assert (found.rate_limits, found.usage_tracking_config) == ([limit], usage)
