"""The real Databricks CLI validates the bundle against the few routes that it asks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from databricks_steps import network
from databricks_steps.settings import LOOPBACK, REPOSITORY
from databricks_steps.training import lineage
from taxi_assets.emulator import server
from taxi_assets.resources.clusters import LIBRARIES, Cluster
from taxi_assets.resources.targets import NAMES

pytestmark = pytest.mark.slow

TARGETS = (*NAMES, "dev_serverless")


ME = str(uuid.uuid4())  # a service principal's user name is its application id
FOLDERS = {path: n for n, path in enumerate(("/", "/Users", f"/Users/{ME}", "/Shared"), 1)}


def identity(host: str) -> FastAPI:
    """What the CLI asks of a workspace first: who asks, and the folders they may deploy to."""
    app = FastAPI()

    @app.get("/.well-known/databricks-config")
    def config() -> dict[str, str]:
        return {"oidc_endpoint": f"{host}/oidc", "workspace_id": "7"}

    @app.get("/api/2.0/preview/scim/v2/Me")
    def me() -> dict[str, Any]:
        groups = [{"display": "admins", "value": "1", "type": "direct"}]
        return {"id": "1", "userName": ME, "displayName": "taxi", "active": True, "groups": groups}

    @app.get("/api/2.0/workspace/get-status")
    def status(path: str) -> Any:
        number = FOLDERS.get(path.removeprefix("/Workspace").rstrip("/") or "/")
        if number is None:
            told = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": path}
            return JSONResponse(told, 404)
        return {"object_id": number, "object_type": "DIRECTORY", "path": path} | {
            "resource_id": str(number)
        }

    @app.get("/api/2.0/permissions/directories/{number}")
    def access(number: str) -> dict[str, Any]:
        def manages(inherited: bool, **who: str) -> dict[str, Any]:
            level = {"permission_level": "CAN_MANAGE", "inherited": inherited}
            return {**who, "all_permissions": [level]}

        own = [manages(False, service_principal_name=ME)] * (number == str(FOLDERS[f"/Users/{ME}"]))
        return {
            "object_id": f"/directories/{number}",
            "object_type": "directory",
            "access_control_list": [*own, manages(True, group_name="admins")],
        }

    return app


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    listener = server.listen(0)
    host = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
    serving = uvicorn.Server(uvicorn.Config(identity(host), log_level="warning"))
    thread = threading.Thread(target=serving.run, args=([listener],))
    thread.start()
    yield host
    serving.should_exit = True
    thread.join()


@dataclass(frozen=True)
class Cli:
    """The CLI at a workspace, with a home of its own: no profile and no cache of anybody's."""

    program: str
    host: str
    home: Path

    def validate(
        self, target: str, *options: str, folder: Path = REPOSITORY
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, "bundle", "validate", "-t", target, *options],
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "DATABRICKS_BUNDLE_TMP": str(self.home / "bundle"),
                "DATABRICKS_HOST": self.host,
                "DATABRICKS_TOKEN": "any",
            },
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def resolved(self, target: str, *options: str) -> dict[str, Any]:
        told = self.validate(target, "-o", "json", *options)
        assert told.returncode == 0, told.stderr
        found: dict[str, Any] = json.loads(told.stdout)
        return found


@pytest.fixture(scope="module")
def cli(host: str, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    own = REPOSITORY / ".venv" / "bin" / "databricks"
    program = str(own) if own.exists() else shutil.which("databricks")
    if program is None:
        pytest.skip("Databricks CLI: not installed; run scripts/install_databricks_cli.sh")
    return Cli(program, host, tmp_path_factory.mktemp("cli"))


@pytest.mark.parametrize("target", TARGETS)
def test_the_bundle_is_valid_without_a_warning(cli: Cli, target: str) -> None:
    told = cli.validate(target, "--strict")
    assert told.stderr == ""
    assert told.returncode == 0
    first, second, *_, last = told.stdout.splitlines()
    assert (first, second, last) == (
        "Name: taxi_assets",
        f"Target: {target}",
        "Validation OK!",  # neither a warning nor a recommendation
    )


@pytest.mark.parametrize("target", NAMES)
def test_tasks_are_told_the_target_s_names(cli: Cli, target: str) -> None:
    names = NAMES[target]
    given = [
        f"--catalog={names['TAXI_CATALOG']}",
        f"--schema={names['TAXI_SCHEMA']}",
        f"--model={names['TAXI_MODEL']}",
        f"--experiment={names['TAXI_EXPERIMENT']}",
        f"--require-approval={names['TAXI_REQUIRE_APPROVAL']}",
        "--months={{job.parameters.months}}",
    ]
    jobs = cli.resolved(target)["resources"]["jobs"]
    for job in jobs.values():
        (cluster,) = job["job_clusters"]
        assert cluster["new_cluster"] | {"workload_type": None} == {
            "spark_version": Cluster().spark_version,
            "node_type_id": Cluster().node_type,
            "num_workers": Cluster().workers[0],
            "data_security_mode": "SINGLE_USER",
            "spark_env_vars": network.SILENT,
            "workload_type": None,
        }
        for task in job["tasks"]:
            name, *options = task["python_wheel_task"]["parameters"]
            assert name == task["task_key"]
            assert [o for o in options if not o.startswith("--git-commit=")][:6] == given
            assert task["libraries"][0] == {"whl": "dist/*.whl"}


@pytest.mark.parametrize("target", ["prod", "dev_serverless"])
def test_tasks_are_told_the_commit_of_the_bundle(cli: Cli, target: str) -> None:
    commit = lineage.commit().removesuffix("+")  # the CLI does not tell whether files differ
    if commit == lineage.UNKNOWN:
        pytest.skip("commit of the bundle: no repository here")
    for job in cli.resolved(target)["resources"]["jobs"].values():
        for task in job["tasks"]:
            assert f"--git-commit={commit}" in task["python_wheel_task"]["parameters"]


def test_serverless_tasks_are_given_the_same_wheel(cli: Cli) -> None:
    for job in cli.resolved("dev_serverless")["resources"]["jobs"].values():
        assert "job_clusters" not in job
        (environment,) = job["environments"]
        assert environment["spec"]["dependencies"] == ["./dist/*.whl", LIBRARIES[0]]
        assert {task["environment_key"] for task in job["tasks"]} == {"steps"}


@pytest.mark.parametrize("target", ["staging", "prod"])
def test_production_is_the_service_principal_s(cli: Cli, target: str) -> None:
    me, found = ME, cli.resolved(target)
    names, resources = NAMES[target], found["resources"]
    assert found["workspace"]["root_path"] == f"/Workspace/Users/{me}/.bundle/taxi_assets/{target}"
    for name, job in resources["jobs"].items():
        assert job["name"] == name
        assert job["run_as"] == {"service_principal_name": me}
        assert job["permissions"] == [
            {"level": "IS_OWNER", "service_principal_name": me},
            {"level": "CAN_MANAGE_RUN", "group_name": "admins"},
        ]
    assert resources["schemas"]["taxi"]["name"] == names["TAXI_SCHEMA"]
    assert resources["registered_models"]["fare_model"]["name"] == names["TAXI_MODEL"]
    assert resources["experiments"]["taxi_fare"]["name"] == names["TAXI_EXPERIMENT"]
    # Readers are by default nobody else: their grants go to the same principal.
    (grant,) = resources["schemas"]["taxi"]["grants"]
    assert grant == {
        "principal": me,
        "privileges": ["USE_SCHEMA", "SELECT", "MODIFY", "CREATE_TABLE", "CREATE_MODEL"],
    }


def test_development_keeps_the_schema_s_name_and_marks_the_jobs(cli: Cli) -> None:
    resources = cli.resolved("dev")["resources"]
    assert {name: job["name"] for name, job in resources["jobs"].items()} == {
        name: f"[dev taxi] {name}" for name in resources["jobs"]
    }
    assert resources["schemas"]["taxi"]["name"] == NAMES["dev"]["TAXI_SCHEMA"]
    assert "registered_models" not in resources  # MLflow makes it, under the name tasks are told


def test_who_deploys_for_another_principal_is_told(cli: Cli) -> None:
    other = str(uuid.uuid4())
    told = cli.validate("prod", f"--var=service_principal_name={other}")
    assert told.returncode == 0
    assert f"/Workspace/Users/{other}/.bundle/taxi_assets/prod" in told.stdout
    assert "Found 1 recommendation" in told.stdout
    assert "permissions section should explicitly include the current deployment" in told.stderr


@pytest.mark.parametrize(
    ("file", "right", "wrong", "message"),
    [
        ("databricks.yml", "mode: production", "mode: productive", "productive"),
        ("databricks.yml", "default: p03", "defualt: p03", "unknown field: defualt"),
        (
            "databricks_steps/resources/batch_inference.yml",
            "- job_cluster_key: steps",
            "- job_cluster_key: step",
            "job_cluster_key steps is not defined",
        ),
    ],
)
def test_a_mistake_is_found(
    cli: Cli, tmp_path: Path, file: str, right: str, wrong: str, message: str
) -> None:
    shutil.copy(REPOSITORY / "databricks.yml", tmp_path)
    folder = tmp_path / "databricks_steps" / "resources"
    shutil.copytree(REPOSITORY / "databricks_steps" / "resources", folder)
    assert cli.validate("prod", "--strict", folder=tmp_path).returncode == 0
    text = (tmp_path / file).read_text()
    assert right in text
    (tmp_path / file).write_text(text.replace(right, wrong))
    told = cli.validate("prod", "--strict", folder=tmp_path)
    assert told.returncode != 0
    assert message in told.stderr
