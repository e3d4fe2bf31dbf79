"""The real Databricks CLI validates the bundle against the emulator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from databricks.sdk.errors import NotFound

from databricks_steps.settings import REPOSITORY, Settings
from databricks_steps.training import lineage
from taxi_assets.deployment import online_store
from taxi_assets.emulator import process
from taxi_assets.resources.clusters import Cluster
from taxi_assets.resources.targets import NAMES
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import free_port

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

pytestmark = pytest.mark.slow

TARGETS = (*NAMES, "dev_serverless")


@dataclass(frozen=True)
class Workspace:
    settings: Settings
    client: WorkspaceClient
    me: str


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """An empty workspace, and the name of its token's holder."""
    settings = Settings(home=tmp_path_factory.mktemp("bundle") / "home", port=free_port())
    host = process.ensure_running(settings)
    client = online_store.workspace_client(host, settings.token_file.read_text().strip())
    yield Workspace(settings, client, str(client.current_user.me().user_name))
    process.stop(settings)


@dataclass(frozen=True)
class Cli:
    """The CLI at a workspace, with a home of its own: no profile and no cache of anybody's."""

    program: str
    workspace: Workspace
    home: Path

    def validate(
        self, target: str, *options: str, folder: Path = REPOSITORY
    ) -> subprocess.CompletedProcess[str]:
        settings = self.workspace.settings
        return subprocess.run(
            [self.program, "bundle", "validate", "-t", target, *options],
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "DATABRICKS_BUNDLE_TMP": str(self.home / "bundle"),
                "DATABRICKS_HOST": settings.host,
                "DATABRICKS_TOKEN": settings.token_file.read_text().strip(),
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def resolved(self, target: str, *options: str) -> dict[str, Any]:
        told = self.validate(target, "-o", "json", *options)
        assert told.returncode == 0, told.stderr
        found: dict[str, Any] = json.loads(told.stdout)
        return found


@pytest.fixture(scope="module")
def cli(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    own = REPOSITORY / ".venv" / "bin" / "databricks"
    program = str(own) if own.exists() else shutil.which("databricks")
    if program is None:
        pytest.skip("Databricks CLI: not installed; run scripts/install_databricks_cli.sh")
    return Cli(program, workspace, tmp_path_factory.mktemp("cli"))


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
            "spark_env_vars": {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
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
        assert environment["spec"]["dependencies"] == [
            "./dist/*.whl",
            "databricks-feature-engineering>=0.14",
        ]
        assert {task["environment_key"] for task in job["tasks"]} == {"steps"}


@pytest.mark.parametrize("target", ["staging", "prod"])
def test_production_is_the_service_principal_s(cli: Cli, target: str) -> None:
    me, found = cli.workspace.me, cli.resolved(target)
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


def test_the_holder_of_the_token_is_the_workspace_s_principal(workspace: Workspace) -> None:
    me = workspace.client.current_user.me()
    assert str(uuid.UUID(me.user_name)) == me.user_name
    assert me.display_name == "taxi"
    assert [group.display for group in me.groups or ()] == ["admins"]
    process.stop(workspace.settings)
    process.ensure_running(workspace.settings)
    assert workspace.client.current_user.me() == me
    refused = requests.get(f"{workspace.settings.host}/api/2.0/preview/scim/v2/Me", timeout=10)
    assert refused.status_code == 401
    assert refused.json()["error_code"] == "UNAUTHENTICATED"


def test_the_address_says_which_workspace_it_is(workspace: Workspace) -> None:
    settings = workspace.settings
    told = requests.get(
        f"{settings.host}/.well-known/databricks-config",
        headers={"Authorization": f"Bearer {settings.token_file.read_text().strip()}"},
        timeout=10,
    ).json()
    assert told["oidc_endpoint"] == f"{settings.host}/oidc"
    assert told["workspace_id"].isdigit()


def test_folders_end_at_each_principal_s_home(workspace: Workspace) -> None:
    home = workspace.client.workspace.get_status(f"/Workspace/Users/{workspace.me}")
    assert home.path == f"/Workspace/Users/{workspace.me}"
    same = workspace.client.workspace.get_status(f"/Users/{workspace.me}/")
    assert same.object_id == home.object_id
    granted = workspace.client.workspace.get_permissions("directories", str(home.object_id))
    assert [
        (each.service_principal_name or each.group_name, each.all_permissions[0].inherited)
        for each in granted.access_control_list or ()
        if each.all_permissions
    ] == [(workspace.me, False), ("admins", True)]
    with pytest.raises(NotFound, match="Path does not exist"):
        workspace.client.workspace.get_status("/Users/nobody")
    with pytest.raises(NotFound, match="Folder does not exist"):
        workspace.client.workspace.get_permissions("directories", "99")
