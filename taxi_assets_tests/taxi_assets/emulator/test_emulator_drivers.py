"""The driver of a cluster: one engine for its tasks, each with a session of its own; its end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from databricks.sdk.service.compute import State as ClusterState
from test_emulator_runs import NODE_TYPE, RUNTIME, VOLUME, await_text, ended, read, state, write

from databricks_steps.settings import SAIL, Settings
from taxi_assets.emulator.errors import ApiError
from taxi_assets.emulator.runtime import state as states
from taxi_assets.emulator.runtime.clusters import Clusters
from taxi_assets.emulator.runtime.drivers import SERVERLESS, Drivers
from taxi_assets.emulator.runtime.state import State
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import Workspace
from taxi_assets_tests.waiting import until

pytestmark = pytest.mark.long  # a JVM

SESSION = """
import sys
views = [table.name for table in spark.catalog.listTables()]
pid = sc._jvm.java.lang.ProcessHandle.current().pid()
with open(sys.argv[1], "w") as out:
    out.write(f"{pid} {views} {spark.conf.get('spark.sql.shuffle.partitions')} ")
spark.range(3).createOrReplaceTempView("mine")
spark.conf.set("spark.sql.shuffle.partitions", "7")
with open(sys.argv[1] + ".end", "w") as out:
    out.write(str(spark.sql("SELECT sum(id) FROM mine").first()[0]))
"""
ENDLESS = """
import sys
with open(sys.argv[1], "w") as out:
    out.write(str(sc._jvm.java.lang.ProcessHandle.current().pid()))
spark.range(10**15).selectExpr("sum(id * id % 7)").collect()
"""


CATCHING = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
"""  # as Dagster does


def submit(workspace: Workspace, cluster: str, file: str, *parameters: str) -> int:
    task = {
        "task_key": "one",
        "existing_cluster_id": cluster,
        "spark_python_task": {"python_file": file, "parameters": [*parameters]},
    }
    asked = {"run_name": "one", "tasks": [task]}
    made = workspace.client.api_client.do("POST", "/api/2.2/jobs/runs/submit", body=asked)
    assert isinstance(made, dict)
    return int(made["run_id"])


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def cluster(workspace: Workspace) -> str:
    """One of a JVM."""
    made = workspace.client.clusters.create(
        RUNTIME, node_type_id=NODE_TYPE, num_workers=1, spark_env_vars={"TAXI_SPARK": "local[1]"}
    )
    return str(made.response.cluster_id)


def test_tasks_share_the_jvm_of_their_cluster_and_nothing_of_their_sessions(
    workspace: Workspace, cluster: str
) -> None:
    file = write(workspace, "session.py", SESSION)
    pids = []
    for number in (1, 2):
        run_id = submit(workspace, cluster, file, f"{VOLUME}/session{number}")
        assert state(ended(workspace, run_id)) == ("TERMINATED", "SUCCESS")
        pid, views, partitions = read(workspace, f"session{number}").split()
        assert (views, partitions) == ("[]", "16")
        assert read(workspace, f"session{number}.end") == "3"
        pids.append(int(pid))
    assert len({*pids}) == 1
    workspace.client.clusters.delete(cluster)
    until(lambda: not alive(pids[0]), 10)
    assert workspace.client.clusters.get(cluster).state is ClusterState.TERMINATED

    run_id = submit(workspace, cluster, file, f"{VOLUME}/session3")  # a task starts it again
    assert state(ended(workspace, run_id)) == ("TERMINATED", "SUCCESS")
    assert workspace.client.clusters.get(cluster).state is ClusterState.RUNNING
    assert int(read(workspace, "session3").split()[0]) != pids[0]


def test_the_queries_of_a_cancelled_task_end_with_it_and_a_deleted_cluster_ends_its_tasks(
    workspace: Workspace, cluster: str
) -> None:
    plain = write(workspace, "endless.py", ENDLESS)
    catching = write(workspace, "catching.py", CATCHING + ENDLESS)
    cases = (
        ("cancelled", plain, "CANCELED"),
        ("caught", catching, "CANCELED"),
        ("deleted", plain, "FAILED"),
    )
    for name, file, result in cases:
        run_id = submit(workspace, cluster, file, f"{VOLUME}/{name}")
        pid = int(await_text(workspace, name))
        if result == "CANCELED":
            workspace.client.jobs.cancel_run(run_id)
        else:
            workspace.client.clusters.delete(cluster)
        assert state(ended(workspace, run_id)) == ("TERMINATED", result)
        until(lambda pid=pid: not alive(pid), 10)


@pytest.fixture
def drivers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drivers]:
    """Those of a workspace in this process, on Sail."""
    monkeypatch.setenv("TAXI_SPARK", SAIL)
    settings.home.mkdir()
    memory = State(states.database(settings))
    found = Drivers(settings, Clusters(memory))
    yield found
    found.close()
    memory.close()


def test_an_idle_cluster_ends_itself_and_its_next_task_starts_it_again(drivers: Drivers) -> None:
    clusters = drivers._clusters
    number = clusters.create(
        {"spark_version": RUNTIME, "node_type_id": NODE_TYPE, "autotermination_minutes": 0.02}
    )
    task = {"existing_cluster_id": number}
    with drivers.held(1, task, ()) as first, drivers.held(2, task, ()) as second:
        assert second is first
    with drivers.held(3, task, ()) as third:
        assert third is first
        assert first.alive
    until(lambda: clusters.get(number)["state"] == "TERMINATED", 10)
    assert not first.alive
    assert not first.folder.exists()
    with drivers.held(4, task, ()) as fourth:
        assert clusters.get(number)["state"] == "RUNNING"
        assert fourth.process.pid != first.process.pid
        os.kill(fourth.process.pid, 9)
        fourth.process.wait()
        with drivers.held(5, task, ()) as fifth:  # one that has died is not given out again
            assert fifth.alive


def test_a_library_that_cannot_be_had_leaves_no_folder(drivers: Drivers) -> None:
    task = {"new_cluster": {"spark_version": RUNTIME}}
    task |= {"libraries": [{"pypi": {"package": "no-such-package==1.0"}}]}
    with pytest.raises(ApiError), drivers.held(1, task, ()):
        pass
    assert list((drivers._settings.home / "clusters").iterdir()) == []


def test_other_libraries_have_a_driver_of_their_own_and_a_runs_own_cluster_ends_with_it(
    drivers: Drivers,
) -> None:
    environments = [
        {"environment_key": str(n), "spec": {"dependencies": names}}
        for n, names in enumerate(((), (), ("mlflow",)))
    ]
    found = []
    for number in range(3):
        with drivers.held(number, {"environment_key": str(number)}, environments) as each:
            assert each.cluster == SERVERLESS
            found.append(each)
    assert found[0] is found[1]
    assert found[2] is not found[0]
    with drivers.held(9, {"new_cluster": {"spark_version": RUNTIME}}, ()) as own:
        assert own.alive
    assert not own.alive
    assert not own.folder.parent.exists()
    assert all(each.alive for each in found)
