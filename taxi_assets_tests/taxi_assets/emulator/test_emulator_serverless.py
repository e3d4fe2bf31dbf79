"""Serverless compute in the emulator: environments, what is refused, and what a session may not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from databricks.sdk.errors import InvalidParameterValue
from databricks.sdk.service.compute import Environment, Library, PythonPyPiLibrary
from databricks.sdk.service.jobs import (
    JobEnvironment,
    PythonWheelTask,
    Run,
    SparkPythonTask,
    SubmitTask,
)

from databricks_steps.settings import SAIL
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import Workspace
from taxi_assets_tests.taxi_assets.emulator.test_emulator_runs import ended, read, write

pytestmark = pytest.mark.long  # tasks with an engine each

SESSION = """
import sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
said = []
for call in (
    lambda: spark.range(3).cache(),
    lambda: spark.conf.set("spark.driver.memory", "9g"),
    lambda: spark.conf.set("spark.sql.session.timeZone", "UTC"),
    lambda: spark.sparkContext,
):
    try:
        call()
        said.append("ok")
    except Exception as error:
        said.append(str(error).split("]")[0].strip("["))
said.append(str(sc))
with open(sys.argv[1], "w") as out:  # a path of a volume
    out.write("\\n".join(said))
"""


@pytest.fixture(scope="module", autouse=True)
def sail() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXI_SPARK", SAIL)
        yield


def submit(workspace: Workspace, task: SubmitTask, *lines: str, version: str = "4") -> Run:
    environment = Environment(environment_version=version, dependencies=list(lines))
    run_id = workspace.client.jobs.submit(
        tasks=[task], environments=[JobEnvironment("one", environment)]
    ).run_id
    assert run_id is not None
    return ended(workspace, run_id)


def task(file: str, *parameters: str, key: str | None = "one", **more: Any) -> SubmitTask:
    python = SparkPythonTask(file, list(parameters))
    return SubmitTask("a", spark_python_task=python, environment_key=key, **more)


def test_a_session_keeps_no_frames_and_takes_few_settings(workspace: Workspace) -> None:
    file = write(workspace, "session.py", SESSION)
    place = file.replace("session.py", "said.txt")
    wheel = SubmitTask("a", spark_python_task=SparkPythonTask(file, []), environment_key="one")
    wheel.spark_python_task = SparkPythonTask(file, [place])
    assert submit(workspace, wheel).state.result_state.value == "SUCCESS"  # type: ignore[union-attr]
    assert read(workspace, "said.txt").splitlines() == [
        "NOT_SUPPORTED_WITH_SERVERLESS",
        "CONFIG_NOT_AVAILABLE",
        "ok",
        "JVM_ATTRIBUTE_NOT_SUPPORTED",
        "None",
    ]


@pytest.mark.parametrize(
    ("wanted", "version", "message"),
    [
        (task("/Volumes/a/b/c/x.py", key="other"), "4", r"Known: one"),
        (task("/Volumes/a/b/c/x.py"), "12", r"Invalid environment version: '12'"),
        (task("/Volumes/a/b/c/x.py", key=None), "4", r"needs an environment_key"),
        (
            task("/Volumes/a/b/c/x.py", existing_cluster_id="1124-101010-abcdefgh"),
            "4",
            r"runs on no cluster",
        ),
        (
            task("/Volumes/a/b/c/x.py", libraries=[Library(pypi=PythonPyPiLibrary("mlflow"))]),
            "4",
            r"Please specify libraries in environment",
        ),
    ],
)
def test_what_databricks_refuses_is_refused(
    workspace: Workspace, wanted: SubmitTask, version: str, message: str
) -> None:
    with pytest.raises(InvalidParameterValue, match=message):
        submit(workspace, wanted, version=version)


def test_what_a_task_prints_is_in_its_output(workspace: Workspace) -> None:
    run = submit(workspace, task(write(workspace, "says.py", "print('one line')")))
    output = workspace.client.jobs.get_run_output(int(run.run_id or 0))
    assert (output.error, output.logs_truncated) == (None, False)
    assert str(output.logs).splitlines()[-1] == "one line"


@pytest.mark.parametrize("line", ["no-such-package==1.0", "not a requirement"])
def test_an_environment_that_does_not_resolve_fails_the_run(
    workspace: Workspace, line: str
) -> None:
    file = write(workspace, "nothing.py", "")
    run = submit(workspace, task(file), line)
    assert run.state is not None
    assert run.state.result_state is not None
    assert run.state.result_state.value == "FAILED"
    assert "Library installation failed" in str(run.state.state_message)
    output = workspace.client.jobs.get_run_output(int(run.run_id or 0))
    assert "Library installation failed" in str(output.error)


def test_an_entry_point_is_a_function_of_the_package_where_its_metadata_names_none(
    workspace: Workspace,
) -> None:
    wheel = SubmitTask("a", python_wheel_task=PythonWheelTask("packaging", "no_such"))
    wheel.environment_key = "one"
    run = submit(workspace, wheel, "packaging")
    assert run.state is not None
    assert "has no attribute 'no_such'" in str(run.state.state_message)
