"""Volumes and runs by the official SDK: files, tasks with Spark, failures, cancels, limits."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from databricks.sdk.errors import AlreadyExists, BadRequest, InvalidParameterValue, NotFound
from databricks.sdk.service import iam
from databricks.sdk.service.compute import ClusterSpec, Library, PythonPyPiLibrary
from databricks.sdk.service.jobs import Run, SparkPythonTask, SubmitTask

from databricks_steps.settings import SAIL
from taxi_assets.emulator import process
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import Workspace
from taxi_assets_tests.waiting import until

pytestmark = pytest.mark.long  # tasks with an engine each

VOLUME = "/Volumes/p03/e2e_demo_simon/dagster_staging"
RUNTIME, NODE_TYPE = "17.3.x-cpu-ml-scala2.13", "Standard_D4s_v3"


def write(workspace: Workspace, path: str, text: str) -> str:
    workspace.client.files.upload(f"{VOLUME}/{path}", io.BytesIO(text.encode()), overwrite=True)
    return f"{VOLUME}/{path}"


def read(workspace: Workspace, path: str) -> str:
    contents = workspace.client.files.download(f"{VOLUME}/{path}").contents
    assert contents is not None
    return contents.read().decode()


@pytest.fixture(scope="module", autouse=True)
def sail() -> Iterator[None]:
    """Tasks run on Sail, where they do not ask for a JVM."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXI_SPARK", SAIL)
        yield


def existing(workspace: Workspace) -> str:
    """The one cluster that tasks of these tests share."""
    for each in workspace.client.clusters.list():
        return str(each.cluster_id)
    made = workspace.client.clusters.create(RUNTIME, node_type_id=NODE_TYPE, num_workers=1)
    return str(made.response.cluster_id)


def submit(
    workspace: Workspace,
    file: str,
    *parameters: str,
    libraries: Sequence[Library] = (),
    **more: Any,
) -> int:
    task = SubmitTask("one", spark_python_task=SparkPythonTask(file, list(parameters)))
    task.libraries = list(libraries)
    task.existing_cluster_id = existing(workspace)
    run_id = workspace.client.jobs.submit(tasks=[task], **more).run_id
    assert run_id is not None
    return run_id


def ended(workspace: Workspace, run_id: int, seconds: float = 90) -> Run:
    until(lambda: state(workspace.client.jobs.get_run(run_id))[0] == "TERMINATED", seconds)
    return workspace.client.jobs.get_run(run_id)


def state(run: Run) -> tuple[str, str | None]:
    assert run.state is not None
    assert run.state.life_cycle_state is not None
    result = run.state.result_state
    return run.state.life_cycle_state.value, result and result.value


def await_text(workspace: Workspace, path: str) -> str:
    file = workspace.settings.home / VOLUME.lstrip("/").replace("Volumes", "volumes", 1) / path
    return until(lambda: file.read_text() if file.exists() else "")


def test_files_of_a_volume_live_and_end(workspace: Workspace) -> None:
    files = workspace.client.files
    path = write(workspace, "a/b/hello.txt", "hello")
    assert read(workspace, "a/b/hello.txt") == "hello"
    with pytest.raises(AlreadyExists, match="Overwrite it"):
        files.upload(path, io.BytesIO(b"other"))
    write(workspace, "a/b/hello.txt", "other")
    assert read(workspace, "a/b/hello.txt") == "other"
    large = os.urandom(3_000_000)  # over the limit of every other body
    files.upload(f"{VOLUME}/a/large", io.BytesIO(large), overwrite=True)
    contents = files.download(f"{VOLUME}/a/large").contents
    assert contents is not None
    assert contents.read() == large
    assert files.get_metadata(path).content_length == 5
    listed = {
        e.name: (e.path, e.is_directory) for e in files.list_directory_contents(f"{VOLUME}/a")
    }
    assert listed == {"b": (f"{VOLUME}/a/b", True), "large": (f"{VOLUME}/a/large", False)}
    with pytest.raises(InvalidParameterValue, match="A folder that is removed is empty"):
        files.delete_directory(f"{VOLUME}/a/b")
    files.delete(path)
    files.delete_directory(f"{VOLUME}/a/b")
    with pytest.raises(NotFound):
        files.download(path)
    with pytest.raises(NotFound):
        list(files.list_directory_contents(f"{VOLUME}/a/b"))


@pytest.mark.parametrize(
    "path",
    [
        "/Volumes/a/b",
        "/etc/passwd",
        f"{VOLUME}/../../../token",
        "/Volumes/../../a/b/c",
        "/Volumes/a/b/./c",
    ],
)
def test_a_path_outside_of_a_volume_is_refused(workspace: Workspace, path: str) -> None:
    with pytest.raises((BadRequest, NotFound, ValueError)):
        workspace.client.files.upload(path, io.BytesIO(b"x"), overwrite=True)
    home = workspace.settings.home
    assert not [file for file in home.rglob("*") if file.is_file() and file.read_bytes() == b"x"]


TASK = """
import sys
rows = spark.range(10).selectExpr("sum(id) AS total").first()["total"]
with open(sys.argv[1], "w") as out:
    out.write(f"{rows} {sc} {spark.conf.get('spark.sql.session.timeZone')}")
try:
    dbutils.secrets.get("scope", "key")
except Exception as error:
    print(error)
print("said and done")
"""


def test_a_task_has_spark_volumes_and_a_record(workspace: Workspace) -> None:
    file = write(workspace, "task/main.py", TASK)
    write(workspace, "task/out.txt", "")
    token = "the same one"
    run_id = submit(
        workspace,
        f"dbfs:{file}",
        f"{VOLUME}/task/out.txt",
        run_name="good",
        idempotency_token=token,
    )
    again = submit(workspace, file, "else", run_name="good", idempotency_token=token)
    assert again == run_id
    run = ended(workspace, run_id)
    assert state(run) == ("TERMINATED", "SUCCESS")
    assert read(workspace, "task/out.txt") == "45 None UTC"
    assert (run.run_name, run.run_page_url) == ("good", f"{workspace.settings.host}/#run/{run_id}")
    assert run.end_time is not None
    assert run.start_time is not None
    assert run.end_time >= run.start_time
    log = (workspace.settings.home / "logs" / "runs" / f"{run_id}.log").read_text()
    assert "The emulator keeps no secrets: scope/key" in log
    assert log.rstrip().endswith("said and done")
    assert next(each.run_id for each in workspace.client.jobs.list_runs()) == run_id
    allowed = [
        iam.AccessControlRequest(user_name="a@b.c", permission_level=iam.PermissionLevel.CAN_VIEW)
    ]
    api = workspace.client.permissions
    kept = api.update("jobs", str(run.job_id), access_control_list=allowed).access_control_list
    assert kept is not None
    assert [each.user_name for each in kept] == ["a@b.c"]


def test_a_task_that_raises_fails_with_its_own_words(workspace: Workspace) -> None:
    file = write(workspace, "bad.py", "raise ValueError('the reason')")
    run = ended(workspace, submit(workspace, file))
    assert state(run) == ("TERMINATED", "FAILED")
    assert run.state is not None
    assert "ValueError: the reason" in str(run.state.state_message)


SLEEPER = """
import os, sys, time
with open(sys.argv[1], "w") as out:
    out.write(str(os.getpid()))
time.sleep(600)
"""


def test_cancel_and_the_limit_of_time_end_the_process(workspace: Workspace) -> None:
    file = write(workspace, "sleep.py", SLEEPER)
    for name, more, result in (
        ("one", {}, "CANCELED"),
        ("two", {"timeout_seconds": 20}, "TIMEDOUT"),
    ):
        write(workspace, f"{name}/x", "")  # makes the folder
        run_id = submit(workspace, file, f"{VOLUME}/{name}/pid", **more)
        pid = int(await_text(workspace, f"{name}/pid"))
        assert Path(f"/proc/{pid}").exists()
        if result == "CANCELED":
            workspace.client.jobs.cancel_run(run_id)
        run = ended(workspace, run_id)
        assert state(run) == ("TERMINATED", result)
        assert not Path(f"/proc/{pid}").exists()
        workspace.client.jobs.cancel_run(run_id)  # of an ended run changes nothing
        assert state(workspace.client.jobs.get_run(run_id)) == ("TERMINATED", result)
    with pytest.raises(NotFound, match="Run does not exist: 999"):
        workspace.client.jobs.get_run(999)


def test_a_task_whose_file_is_on_no_volume_is_refused_and_a_missing_one_fails(
    workspace: Workspace,
) -> None:
    with pytest.raises(InvalidParameterValue, match="A path of a volume"):
        submit(workspace, "/Volumes/a/b/ü/x.py")
    run = ended(workspace, submit(workspace, f"{VOLUME}/nowhere.py"))
    assert state(run) == ("TERMINATED", "FAILED")
    assert run.state is not None
    assert "nowhere.py" in str(run.state.state_message)


def test_variables_of_the_cluster_are_there_before_spark_starts(workspace: Workspace) -> None:
    file = write(
        workspace,
        "env.py",
        "import os, sys\n"
        "rows = spark.range(10).selectExpr('sum(id) AS total').first()['total']\n"
        "open(sys.argv[1], 'w').write(f\"{os.environ['A']} {sc.master} {rows}\")",
    )
    write(workspace, "env/x", "")
    variables = {"A": "b", "TAXI_SPARK": "local[1]"}
    task = SubmitTask(
        "one",
        new_cluster=ClusterSpec(
            spark_version=RUNTIME,
            node_type_id=NODE_TYPE,
            num_workers=1,
            spark_env_vars=variables,
        ),
        spark_python_task=SparkPythonTask(file, [f"{VOLUME}/env/out"]),
    )
    run_id = workspace.client.jobs.submit(tasks=[task]).run_id
    assert run_id is not None
    assert state(ended(workspace, run_id)) == ("TERMINATED", "SUCCESS")
    assert read(workspace, "env/out") == "b local[1] 45"


def test_a_task_names_one_cluster(workspace: Workspace) -> None:
    task = SubmitTask("one", spark_python_task=SparkPythonTask("x.py"))
    with pytest.raises(InvalidParameterValue, match="an existing one or in an environment"):
        workspace.client.jobs.submit(tasks=[task])


def test_a_workspace_that_stops_ends_its_runs_and_one_that_dies_says_they_are_lost(
    start: Callable[..., Workspace],
) -> None:
    workspace = start()
    file = write(workspace, "sleep.py", SLEEPER)
    pids = {}
    for name in ("stopped", "killed"):
        write(workspace, f"{name}/x", "")
        run_id = submit(workspace, file, f"{VOLUME}/{name}/pid")
        pids[name] = int(await_text(workspace, f"{name}/pid"))
        if name == "stopped":
            process.stop(workspace.settings)
            assert not Path(f"/proc/{pids[name]}").exists()
        else:
            manager = process.status(workspace.settings).pid
            assert manager is not None
            os.kill(manager, 9)
        process.ensure_running(workspace.settings)
        run = workspace.client.jobs.get_run(run_id)
        assert state(run)[1] in ("CANCELED", "FAILED")
        assert run.state is not None
        assert run.state.state_message
        until(lambda: not Path(f"/proc/{pids[name]}").exists(), 10)  # noqa: B023


def test_runs_are_listed_in_pages_and_with_their_tasks_where_these_are_asked_for(
    workspace: Workspace,
) -> None:
    api = workspace.client.jobs
    bad = write(workspace, "list.py", "raise ValueError")
    token = f"{time.monotonic()}"
    for number in range(3):
        api.cancel_run(submit(workspace, bad, idempotency_token=f"{token}-{number}"))
    newest = [run.run_id for run in api.list_runs(limit=2)]
    assert newest == sorted(newest, key=lambda run_id: -(run_id or 0))
    assert newest == [run.run_id for run in api.list_runs()]
    assert len(newest) >= 3
    assert {bool(run.tasks) for run in api.list_runs()} == {False}
    run = next(api.list_runs(expand_tasks=True))
    assert [task.existing_cluster_id for task in run.tasks or []] == [existing(workspace)]
    ended(workspace, newest[0] or 0)
    active = [run.run_id for run in api.list_runs(active_only=True, limit=1)]
    assert newest[0] not in active
    with pytest.raises(InvalidParameterValue, match="limit"):
        list(api.list_runs(limit=26))


BY_NAME = """
import site, sys, tempfile, zipfile
folder = tempfile.mkdtemp()
zipfile.ZipFile(sys.argv[1]).extractall(folder)
site.addsitedir(folder)  # as the step launcher's main file does, on the driver
import only_in_the_code
rows = spark.range(2).mapInArrow(only_in_the_code.doubled, "doubled long").collect()
print([row["doubled"] for row in rows])
"""
MODULE = """
def doubled(batches):
    import pyarrow as pa

    for batch in batches:
        yield pa.record_batch([pa.array([2 * n for n in batch[0].to_pylist()])], ["doubled"])
"""


def zipped(**files: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{name}.py", text)
    return content.getvalue()


@pytest.mark.parametrize("engine", [SAIL, "local[1]"])
def test_what_is_unpacked_on_the_driver_alone_is_not_with_its_workers(
    workspace: Workspace, engine: str
) -> None:
    """A function of a module is pickled by its name: who runs it must be able to import it."""
    file = write(workspace, "code/main.py", BY_NAME)
    code = f"{VOLUME}/code/code.zip"
    workspace.client.files.upload(code, io.BytesIO(zipped(only_in_the_code=MODULE)), overwrite=True)
    task = SubmitTask("one", spark_python_task=SparkPythonTask(file, [code]))
    task.new_cluster = ClusterSpec(
        spark_version=RUNTIME, node_type_id=NODE_TYPE, spark_env_vars={"TAXI_SPARK": engine}
    )
    run_id = workspace.client.jobs.submit(tasks=[task]).run_id
    assert run_id is not None
    assert state(ended(workspace, run_id)) == ("TERMINATED", "FAILED")
    assert "No module named 'only_in_the_code'" in run_log(workspace, run_id)


def test_a_wheel_among_a_tasks_libraries_is_there_for_driver_and_workers(
    workspace: Workspace,
) -> None:
    file = write(workspace, "wheel/main.py", BY_NAME)
    empty, wheel = f"{VOLUME}/wheel/code.zip", f"{VOLUME}/wheel/only-1.0-py3-none-any.whl"
    workspace.client.files.upload(empty, io.BytesIO(zipped()), overwrite=True)
    content = io.BytesIO(zipped(only_in_the_code=MODULE))
    workspace.client.files.upload(wheel, content, overwrite=True)
    run_id = submit(workspace, file, empty, libraries=[Library(whl=wheel)])
    assert state(ended(workspace, run_id)) == ("TERMINATED", "SUCCESS"), run_log(workspace, run_id)
    assert "[0, 2]" in run_log(workspace, run_id)


def test_neither_the_project_nor_the_orchestrators_packages_are_on_a_cluster(
    workspace: Workspace,
) -> None:
    names = ("databricks_steps", "taxi_assets", "dagster", "dagster_webserver", "mlflow")
    code = f"from importlib.util import find_spec\nprint([n for n in {names} if find_spec(n)])"
    file = write(workspace, "names.py", code)
    for packages, there in ((("mlflow>=3",), ["mlflow"]), ((), [])):
        libraries = [Library(pypi=PythonPyPiLibrary(package)) for package in packages]
        run_id = submit(workspace, file, libraries=libraries)
        assert state(ended(workspace, run_id)) == ("TERMINATED", "SUCCESS")
        assert str(there) in run_log(workspace, run_id)


def test_a_library_that_cannot_be_had_fails_the_run_by_name(workspace: Workspace) -> None:
    file = write(workspace, "none.py", "print('never')")
    library = Library(pypi=PythonPyPiLibrary("no-such-package==1.0"))
    run = ended(workspace, submit(workspace, file, libraries=[library]))
    assert state(run) == ("TERMINATED", "FAILED")
    assert run.state is not None
    assert "Library installation failed: no-such-package==1.0" in str(run.state.state_message)


def run_log(workspace: Workspace, run_id: int) -> str:
    return (workspace.settings.home / "logs" / "runs" / f"{run_id}.log").read_text()
