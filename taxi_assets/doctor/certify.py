"""`taxi-assets certify`: what only an account can tell, each probed once by its cheapest call."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from databricks_steps.errors import SettingsError, TaxiError, reason
from databricks_steps.platforms.databricks import probe
from databricks_steps.settings import STAGING_VOLUME
from taxi_assets.partitions import RANGE_TAGS
from taxi_assets.resources import remote
from taxi_assets.resources.clusters import Cluster
from taxi_assets.resources.targets import Target
from taxi_assets.resources.workspace import Workspace

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

    from taxi_assets.resources.staging import Staging

FOLDER = "certify"
MAIN = """import sys
from databricks_steps.platforms.databricks import probe
probe.main(spark, sys.argv[1])
"""
MONTHS = {RANGE_TAGS[0]: "2022-01", RANGE_TAGS[1]: "2022-02"}  # a tag with a colon in it
COLON = "a tag with a colon"
ON_A_CLUSTER = (
    *("python_file on a volume", "wheel in Python workers", "_metadata.row_index"),
    probe.SERVED,
)
State = Literal["ok", "differs", "unknown"]


@dataclass(frozen=True)
class Fact:
    """One item that the code relies on: whether this workspace is so, and what it said."""

    item: str
    state: State
    found: str

    def __str__(self) -> str:
        return f"{self.state:<8}{self.item:<34}{self.found}"


def certified(target: Target) -> list[Fact]:
    """Every item of the report, in its order.

    Raises:
        SettingsError: the target launches no step, so that there is nothing to probe.
    """
    if target.cluster is None:
        raise SettingsError(
            "certify probes a workspace that launches steps", target.name, "Say --target dev"
        )
    client = Workspace(target.settings).client
    settings = target.settings
    folder = f"/Volumes/{settings.catalog}/{settings.schema}/{STAGING_VOLUME}/{FOLDER}"
    own = f"{folder}/{uuid.uuid4().hex}"
    found = [*_of_a_cluster(target, target.cluster, client, own)]
    found += _of_the_workspace(target, client, folder)
    _remove(client, own)
    return found


def _remove(client: WorkspaceClient, folder: str) -> None:
    from databricks.sdk.errors.base import DatabricksError

    with suppress(DatabricksError, OSError, TimeoutError):  # what is left is a few lines
        for entry in list(client.files.list_directory_contents(folder)):
            client.files.delete(str(entry.path))
        client.files.delete_directory(folder)


def _of_a_cluster(
    target: Target, cluster: Cluster, client: WorkspaceClient, folder: str
) -> Iterator[Fact]:
    """One task on one cluster: where it does not end well, why, and nothing else is known."""
    from databricks.sdk.errors import OperationFailed
    from databricks.sdk.errors.base import DatabricksError

    from taxi_assets.resources.staging import Staging

    staging = Staging(client, target.settings)
    try:
        yield from _probed(target, cluster, staging, folder)
    except (DatabricksError, OperationFailed, OSError, TimeoutError) as error:
        why = reason(error)
        of_a_tag = any(word in why.lower() for word in ("tag", "label"))
        yield Fact(COLON, "differs" if of_a_tag else "unknown", why)
        yield Fact(ON_A_CLUSTER[0], "unknown" if of_a_tag else "differs", why)
        for item in ON_A_CLUSTER[1:]:
            yield Fact(item, "unknown", "no task ran")


def _probed(target: Target, cluster: Cluster, staging: Staging, folder: str) -> Iterator[Fact]:
    from taxi_assets.resources.volume_launcher import VolumeRunner

    variables = target.remote_environment()
    config = cluster.run_config("certify", "certify", MONTHS, variables, staging.put_wheel())
    main = f"{folder}/main.py"
    staging.put_file(io.BytesIO(MAIN.encode()), main)
    task = {"spark_python_task": {"python_file": main, "parameters": [folder]}}
    token = {"idempotency_token": uuid.uuid4().hex}
    run_id = VolumeRunner(staging, cluster).submit_run(config | token, task)
    limit = timedelta(seconds=cluster.timeout_seconds)
    jobs = staging.workspace_client.jobs
    run = jobs.wait_get_run_job_terminated_or_skipped(run_id, timeout=limit)
    on = "an existing cluster" if cluster.existing else f"month {':'.join(MONTHS.values())}"
    said = staging.read_file(f"{folder}/{probe.SAYS}")
    yield Fact(COLON, "unknown" if cluster.existing else "ok", on)
    if not said:
        state = run.state.state_message if run.state else "no state"
        yield Fact(ON_A_CLUSTER[0], "differs", f"{state} ({run.run_page_url})")
    found = json.loads(said or b"{}")
    for item in ON_A_CLUSTER[0 if said else 1 :]:
        state, words = found.get(item, ("unknown", "no task ran"))
        yield Fact(item, state, words)


def _of_the_workspace(target: Target, client: WorkspaceClient, staged: str) -> Iterator[Fact]:
    settings, cluster = target.settings, target.cluster

    def folders() -> str:
        times = [each.last_modified for each in client.files.list_directory_contents(staged)]
        if not all(times):
            raise LookupError(f"{times.count(None)} of {len(times)} entries have no last_modified")
        return f"{len(times)} entries have theirs"

    def nodes() -> str:
        known = {each.node_type_id for each in client.clusters.list_node_types().node_types or []}
        if cluster is not None and cluster.node_type not in known:
            raise LookupError(f"no {cluster.node_type} among {len(known)}")
        return f"{len(known)} known"

    def store() -> str:
        found = client.feature_store.get_online_store(settings.online_store)
        return f"{found.capacity}, {found.state.value if found.state else 'no state'}"

    def endpoint() -> str:
        return f"created by {client.serving_endpoints.get(settings.endpoint).creator}"

    def model() -> str:
        return f"owned by {client.registered_models.get(settings.registered_model).owner}"

    yield _fact("last_modified of folders", folders)
    yield _fact("node types", nodes)
    yield _fact("online store", store)
    yield _fact("identity of the endpoint", endpoint)
    yield _fact("owner of the model", model)
    workers = "Python workers on serverless"
    if cluster is not None and cluster.is_serverless:
        yield _fact(workers, lambda: str(remote.call(target, "python_workers")))
    else:
        yield Fact(workers, "unknown", "TAXI_COMPUTE=serverless tells")


def _fact(item: str, ask: Callable[[], str]) -> Fact:
    from databricks.sdk.errors import NotFound
    from databricks.sdk.errors.base import DatabricksError

    try:
        return Fact(item, "ok", ask())
    except NotFound as error:
        return Fact(item, "unknown", f"not there yet: {reason(error)}")
    except (DatabricksError, LookupError, OSError, TaxiError, TimeoutError) as error:
        return Fact(item, "differs", reason(error))
