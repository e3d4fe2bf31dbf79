"""Target `dev` from the command line, with the emulator as the one it is told of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest_run import Home, free_port

from databricks_steps.training import lineage
from taxi_assets.deployment import endpoint
from taxi_assets.deployment.online_store import workspace_client
from taxi_assets.emulator import auth, process

pytestmark = pytest.mark.long  # launched steps, each with a JVM

Run = Callable[[str, str], str]


@pytest.fixture(scope="module")
def home(homes: Any) -> Home:
    """A home whose workspace runs; the orchestrator is told its address and token alone."""
    made: Home = homes("dev")
    process.ensure_running(made.settings)
    return made


@pytest.fixture(scope="module")
def run(home: Home, small_source: Path) -> Run:
    """Runs one month, by host and token; gives the one line of a run that cannot succeed."""
    source = small_source / "truncated_2022-01.parquet"
    asked = ("run", "--target", "dev", "--source", str(source), "--months", "2022-01")
    return lambda host, token: refused(home, asked, host, token)


def refused(home: Home, asked: Sequence[str | Path], host: str, token: str, **more: str) -> str:
    """The one line on standard error of a command that must fail."""
    known = {"DATABRICKS_HOST": host, "DATABRICKS_TOKEN": token, **more}
    done = home.call(*map(str, asked), **known)
    assert done.returncode == 1, done.stdout
    assert token not in done.stderr + done.stdout
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    return line


def test_an_expired_token_and_a_wrong_host_are_one_error_each(home: Home, run: Run) -> None:
    host, elsewhere = home.settings.host, f"http://127.0.0.1:{free_port()}"
    expired, absent = run(host, "dapi-expired"), run(elsewhere, "dapi-anything")
    assert f"The workspace must answer to these credentials: {host}: " in expired
    assert f"The workspace must answer to these credentials: {elsewhere}: " in absent
    for line in (expired, absent):
        assert "Correct DATABRICKS_HOST and the credentials: docs/databricks.md" in line
    assert "Connection refused" in absent  # not only for how long it was tried


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        (("deploy", "--plan", "--target", "dev"), {}),
        (("approve", "1", "--target", "prod"), {}),
        (("query", endpoint.SINGLE_FILE), {"TAXI_TARGET": "dev"}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_asks_a_workspace_needs_its_answer_first(
    home: Home, command: Sequence[str | Path], environment: dict[str, str]
) -> None:
    """MLflow would ask a host that is not there for eight minutes, and end with a traceback."""
    line = refused(home, command, home.settings.host, "dapi-expired", **environment)
    assert f"The workspace must answer to these credentials: {home.settings.host}: " in line


def test_a_step_is_submitted_with_the_targets_cluster_and_names(home: Home, run: Run) -> None:
    """It fails there, for its file cannot be read; all before that is as there."""
    settings = home.settings
    token = auth.token(settings.token_file)
    line = run(settings.host, token)
    client = workspace_client(settings.host, token)
    (submitted,) = client.jobs.list_runs(expand_tasks=True)
    assert "Stage raw_trips failed" in line
    assert "truncated_2022-01.parquet" in line
    (cluster,) = client.clusters.list()
    assert (submitted.tasks or [])[0].existing_cluster_id == cluster.cluster_id
    assert (cluster.spark_version, cluster.node_type_id, cluster.num_workers) == (
        "17.3.x-cpu-ml-scala2.13",
        "Standard_D4s_v3",
        1,
    )
    tags = dict(cluster.custom_tags or {})
    assert (tags["project"], tags["target"]) == ("taxi-assets", "dev")
    assert submitted.run_name == "raw_trips 2022-01"
    told = dict(cluster.spark_env_vars or {})
    assert told["TAXI_PLATFORM"] == "databricks"
    assert told["TAXI_GIT_COMMIT"] == lineage.commit()
    assert told["TAXI_MODEL"] == "dev_mlops_stacks_gcp_fs_model"
    assert told["TAXI_HOME"] == "/Volumes/p03/e2e_demo_simon/dagster_staging/home"
    assert not [name for name in told if "TOKEN" in name or "SECRET" in name]
