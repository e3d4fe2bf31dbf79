"""Clusters by the official SDK: nodes of one cloud, known runtimes, one that runs share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from databricks.sdk.errors import InvalidParameterValue
from databricks.sdk.service.compute import ClusterSpec
from databricks.sdk.service.jobs import SparkPythonTask, SubmitTask

from taxi_assets.resources import run_cluster
from taxi_assets.resources.clusters import Cluster
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import Workspace

RUNTIME = "17.3.x-cpu-ml-scala2.13"
NODES = {"azure": "Standard_D4s_v3", "aws": "m5d.xlarge", "gcp": "n2-highmem-4"}


@pytest.fixture(scope="module", params=sorted(NODES))
def cloud(request: pytest.FixtureRequest, start: Callable[..., Workspace]) -> tuple[str, Workspace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXI_CLOUD", request.param)
        return request.param, start()


def test_a_cloud_has_its_own_nodes_and_refuses_those_of_others(
    cloud: tuple[str, Workspace],
) -> None:
    name, workspace = cloud
    api = workspace.client.clusters
    assert NODES[name] in {each.node_type_id for each in api.list_node_types().node_types or []}
    assert RUNTIME in {each.key for each in api.spark_versions().versions or []}
    for other in NODES.keys() - {name}:
        with pytest.raises(InvalidParameterValue, match=f"Node type {NODES[other]} is not supp"):
            api.create(RUNTIME, node_type_id=NODES[other], num_workers=1)
    with pytest.raises(InvalidParameterValue, match="Invalid spark version"):
        api.create("17.1.x-cpu-ml-scala2.12", node_type_id=NODES[name], num_workers=1)


def test_the_cluster_of_a_launched_step_can_be_had_in_each_cloud(
    cloud: tuple[str, Workspace],
) -> None:
    name, workspace = cloud
    spec = Cluster.from_environment({"TAXI_CLOUD": name}).run_spec("run-1", {})
    api, shared = workspace.client.clusters, run_cluster.RunCluster()
    with shared.held():
        with shared.held():
            number = shared.made(workspace.client, spec)
        assert (
            run_cluster.RunCluster().made(workspace.client, spec) == number
        )  # the answer was lost
        assert shared.made(workspace.client, spec) == number
        assert api.get(number).state.value == "RUNNING"
    assert api.get(number).node_type_id == NODES[name]
    assert api.get(number).state.value == "TERMINATED"
    with shared.held():
        assert shared.made(workspace.client, spec) != number


def test_a_run_on_a_cluster_that_nobody_made_is_refused(cloud: tuple[str, Workspace]) -> None:
    _, workspace = cloud
    for existing in ("0101-000000-abcdefgh", "any"):
        task = SubmitTask("one", spark_python_task=SparkPythonTask("x.py"))
        task.existing_cluster_id = existing
        with pytest.raises(InvalidParameterValue, match=f"Cluster {existing} does not exist"):
            workspace.client.jobs.submit(tasks=[task])
    task.existing_cluster_id = None
    task.new_cluster = ClusterSpec(spark_version=RUNTIME, node_type_id="no.such", num_workers=1)
    with pytest.raises(InvalidParameterValue, match="Node type no.such is not supported"):
        workspace.client.jobs.submit(tasks=[task])


def test_a_cluster_lives_until_it_is_ended(cloud: tuple[str, Workspace]) -> None:
    name, workspace = cloud
    api = workspace.client.clusters
    number = api.create(RUNTIME, node_type_id=NODES[name], num_workers=1).response.cluster_id
    assert api.get(str(number)).state.value == "RUNNING"
    api.delete(str(number))
    assert api.get(str(number)).state.value == "TERMINATED"
    assert number in [each.cluster_id for each in api.list()]
