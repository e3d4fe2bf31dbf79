"""The resource `step_launcher`: where a step runs, by target."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from taxi_assets.resources import run_cluster
from taxi_assets.resources.targets import Target

# Called with each event of a launched step, which reaches no logger of this process.
LISTENERS: list[Callable[[dg.DagsterEvent], None]] = []


def step_launcher(target: Target) -> dg.ResourceDefinition:
    """A launcher, or on serverless compute `ServerlessSteps`.

    None where steps run in process, and on the cluster itself.
    """
    if target.cluster is None or target.launched:
        return dg.ResourceDefinition.none_resource()
    cluster = target.cluster

    @dg.resource(
        description="Calls steps on serverless compute", required_resource_keys={"workspace"}
    )
    def serverless(context: dg.InitResourceContext) -> Any:
        from taxi_assets.resources.serverless import ServerlessSteps

        return ServerlessSteps(target, cluster, context.resources.workspace.client)

    @dg.resource(
        description="Runs a step as a Databricks job", required_resource_keys={"workspace"}
    )
    def launcher(context: dg.InitResourceContext) -> Iterator[Any]:
        with warnings.catch_warnings():  # it warns that launchers are superseded by Pipes
            warnings.simplefilter("ignore")
            from taxi_assets.resources.volume_launcher import VolumeLauncher

        with run_cluster.SHARED.held():
            yield VolumeLauncher(target, cluster, context.resources.workspace.client)

    return serverless if cluster.is_serverless else launcher
