"""The bundle against the steps, the assets and Dagster's targets: one name for one thing.

What the real CLI makes of it is in `test_bundle_cli.py`.
"""

from __future__ import annotations

import copy
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from databricks_steps.__main__ import OPTIONS, parser
from databricks_steps.settings import LANDING, REPOSITORY, STAGING_VOLUME
from databricks_steps.steps import STEPS
from taxi_assets.definitions import defs
from taxi_assets.resources import clusters, targets
from taxi_assets.resources.clusters import Cluster

RESOURCES = REPOSITORY / "databricks_steps" / "resources"
FILES = [REPOSITORY / "databricks.yml", *sorted(RESOURCES.glob("*.yml"))]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
SERVERLESS = "dev_serverless"
# What an orchestrator does through the workspace's API, and no step on a cluster.
OWN = {"source", "git_commit"}  # options that no target names
NO_STEPS = {"pickup_features_online", "dropoff_features_online", "serving_endpoint"}
ENOUGH = {  # who → what they may be granted
    "service_principal_name": {
        *("USE_SCHEMA", "SELECT", "MODIFY", "CREATE_TABLE", "CREATE_MODEL"),
        *("READ_VOLUME", "WRITE_VOLUME"),
    },
    "readers": {"USE_SCHEMA", "SELECT", "EXECUTE"},
    "deliverers": {"READ_VOLUME", "WRITE_VOLUME"},
}


def load(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    return found


BUNDLE = load(FILES[0])
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def jobs(target: str | None = None) -> dict[str, dict[str, Any]]:
    """The jobs of all files; with a target, with what it adds to them, tasks joined by name."""
    found: dict[str, dict[str, Any]] = {}
    for content in map(load, FILES):
        found |= copy.deepcopy(content.get("resources", {}).get("jobs", {}))
        if target is None:
            continue
        added = content.get("targets", {}).get(target, {}).get("resources", {}).get("jobs", {})
        for name, more in added.items():
            tasks = {task["task_key"]: task for task in more["tasks"]}
            assert set(tasks) == {task["task_key"] for task in found[name]["tasks"]}
            joined = [task | tasks[task["task_key"]] for task in found[name]["tasks"]]
            found[name] |= {**more, "tasks": joined}
    return found


def tasks() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Each task by its key, with its job."""
    return {task["task_key"]: (task, job) for job in jobs().values() for task in job["tasks"]}


def variable(name: str, target: str | None = None) -> Any:
    own = BUNDLE["targets"][target].get("variables", {}) if target else {}
    return own.get(name, BUNDLE["variables"][name].get("default"))


def granted() -> list[tuple[str, str]]:
    """Every privilege that any file grants, as (variable of the principal, privilege)."""
    found = []
    for content in map(load, FILES):
        for part in (content, *content.get("targets", {}).values()):
            for kind in part.get("resources", {}).values():
                for grant in (g for each in kind.values() for g in each.get("grants", ())):
                    who = re.fullmatch(r"\$\{var\.(\w+)\}", grant["principal"])
                    assert who, grant["principal"]
                    found += [(who[1], privilege) for privilege in grant["privileges"]]
    return found


@pytest.fixture(scope="module")
def bundle_schema() -> dict[str, Any]:
    """The CLI's own schema of bundle files; tests that need it skip by name where it is absent."""
    default = REPOSITORY.parent / "shared" / "schemas" / "databricks_bundle.schema.json"
    file = Path(os.environ.get("TAXI_BUNDLE_SCHEMA", default))
    if not file.is_file():
        pytest.skip(f"schema of bundles: no file {file}; set TAXI_BUNDLE_SCHEMA")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def errors(schema: dict[str, Any], content: Any) -> list[tuple[list[Any], str]]:
    """What the schema has against it: where, and why."""
    found = jsonschema_rs.validator_for(schema).iter_errors(content)
    return [(list(each.instance_path), each.message) for each in found]


def test_every_file_of_the_folder_is_included_by_name() -> None:
    assert [REPOSITORY / name for name in BUNDLE["include"]] == FILES[1:]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_files_are_as_the_schema_wants_them(bundle_schema: dict[str, Any], file: Path) -> None:
    assert errors(bundle_schema, load(file)) == []


@pytest.mark.parametrize(
    ("mistake", "where", "why"),
    [
        ({"max_concurent_runs": 1}, [], "max_concurent_runs"),
        ({"timeout_seconds": "long"}, ["timeout_seconds"], "long"),
        ({"tasks": [{"max_retries": 1}]}, ["tasks"], "max_retries"),
    ],
)
def test_the_schema_refuses_a_job_with_a_mistake(
    bundle_schema: dict[str, Any], mistake: dict[str, Any], where: list[str], why: str
) -> None:
    content = load(RESOURCES / "batch_inference.yml")
    job = content["resources"]["jobs"]["batch_inference"]
    job |= mistake
    assert errors(bundle_schema, content)
    # The file's error names the file's whole content: the job alone shows that it is the mistake.
    of_jobs = "#/$defs/github.com/databricks/cli/bundle/config/resources.Job/oneOf/0"
    ((found, message),) = errors({"$ref": of_jobs, "$defs": bundle_schema["$defs"]}, job)
    assert found == where
    assert why in message


def test_every_step_is_the_task_of_one_job() -> None:
    found = Counter(task["task_key"] for job in jobs().values() for task in job["tasks"])
    assert found == Counter([*STEPS])
    assert all(job["name"] == name for name, job in jobs().items())
    assert {file.stem for file in FILES[1:]} == {*jobs(), "ml_artifacts"}


def test_a_task_waits_for_the_steps_of_its_job_that_write_what_it_reads() -> None:
    for name, (task, job) in tasks().items():
        wanted = [
            other["task_key"]
            for other in job["tasks"]
            if set(STEPS[other["task_key"]].writes) & set(STEPS[name].reads)
        ]
        assert [each["task_key"] for each in task.get("depends_on", ())] == wanted, name


def test_tasks_write_the_assets_of_the_same_names() -> None:
    written = {name for task in tasks() for name in STEPS[task].writes}
    assets = {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()}
    assert written == assets - NO_STEPS


def test_a_task_says_to_its_step_what_the_step_understands() -> None:
    for name, (task, job) in tasks().items():
        parameters = task["python_wheel_task"]["parameters"]
        expected = {option: f"${{var.{option}}}" for option in OPTIONS}
        expected["git_commit"] = "${bundle.git.commit}"
        expected |= {"step": name, "months": "{{job.parameters.months}}", "force": False}
        expected["source"] = "{{job.parameters.source}}" if name == "raw_trips" else None
        assert vars(parser().parse_args(parameters)) == expected
        whole = {option for action in parser()._actions for option in action.option_strings}
        assert {each.partition("=")[0] for each in parameters[1:]} <= whole, name
        asked = set(re.findall(r"\{\{job\.parameters\.(\w+)\}\}", " ".join(parameters)))
        assert asked <= {each["name"] for each in job["parameters"]}, name


def test_a_task_runs_the_wheel_s_own_command() -> None:
    name = PROJECT["project"]["name"].replace("-", "_")
    for task, _ in tasks().values():
        wheel = task["python_wheel_task"]
        assert wheel["package_name"] == name
        assert PROJECT["project"]["scripts"][wheel["entry_point"]] == (
            "databricks_steps.__main__:task"
        )


def test_parameters_that_are_left_alone_mean_all_months_of_the_target_s_source() -> None:
    for job in jobs().values():
        defaults = {each["name"]: each["default"] for each in job["parameters"]}
        assert defaults.pop("months") == ""
        assert defaults in ({}, {"source": "${var.source}"})
    assert variable("source") == f"/Volumes/${{var.catalog}}/${{var.schema}}/{LANDING}"
    assert {name: variable("source", name) for name in ("dev", SERVERLESS)} == dict.fromkeys(
        ("dev", SERVERLESS), "demo"
    )


@pytest.mark.parametrize("target", targets.NAMES)
def test_a_target_has_the_names_that_dagster_has_for_it(target: str) -> None:
    said = {OPTIONS[option]: variable(option, target) for option in OPTIONS if option not in OWN}
    assert said == {name: targets.NAMES[target][name] for name in said}


def test_development_deploys_copies_and_production_one_by_its_service_principal() -> None:
    modes = {name: target["mode"] for name, target in BUNDLE["targets"].items()}
    assert modes == {
        "dev": "development",
        SERVERLESS: "development",
        "staging": "production",
        "prod": "production",
    }
    assert [name for name, each in BUNDLE["targets"].items() if each.get("default")] == ["dev"]
    for name in ("staging", "prod"):
        target = BUNDLE["targets"][name]
        assert target["run_as"] == {"service_principal_name": "${var.service_principal_name}"}
        assert target["workspace"]["root_path"].startswith("/Workspace/Users/${var.service_")
        assert {each["level"] for each in target["permissions"]} == {"CAN_MANAGE", "CAN_RUN"}
    # Which workspace, the environment says.
    assert "host" not in json.dumps([each.get("workspace") for each in BUNDLE["targets"].values()])


def test_the_job_cluster_is_that_of_a_launched_step() -> None:
    cluster = Cluster()
    assert variable("spark_version") == clusters.SPARK_VERSION == cluster.spark_version
    assert variable("node_type") == clusters.NODE_TYPES[clusters.CLOUD] == cluster.node_type
    assert (variable("workers"),) * 2 == cluster.workers
    assert variable("cluster")["data_security_mode"] == "SINGLE_USER"
    for job in jobs().values():
        assert job["timeout_seconds"] == cluster.timeout_seconds
        assert job["max_concurrent_runs"] == 1
        assert job["queue"] == {"enabled": True}
    for name in targets.NAMES:
        tags = dict(targets.target(name, {}).cluster.tags)  # type: ignore[union-attr]
        filled = json.loads(json.dumps(jobs(name)).replace("${bundle.target}", name))
        assert all(job["tags"] == tags for job in filled.values())


def test_the_node_type_of_each_cloud_is_named_where_the_bundle_is_given_one() -> None:
    told = BUNDLE["variables"]["node_type"]["description"]
    others = {name for cloud, name in clusters.NODE_TYPES.items() if cloud != clusters.CLOUD}
    assert all(name in told for name in others)


def test_libraries_are_those_of_a_launched_step_without_dagster() -> None:
    client, *others = Cluster().libraries
    own = [client]
    brought = {Requirement(text).name for text in PROJECT["project"]["dependencies"]}
    assert {Requirement(text).name for text in others} - {"dagster"} <= brought  # by the wheel
    (wanted,) = map(Requirement, PROJECT["project"]["optional-dependencies"]["databricks"])
    assert wanted.specifier.contains(client.partition("==")[2])
    for job in jobs("prod").values():
        for task in job["tasks"]:
            wheel, *packages = task["libraries"]
            assert wheel == {"whl": "../../dist/*.whl"}
            assert [each["pypi"]["package"] for each in packages] == own
    for job in jobs(SERVERLESS).values():
        (environment,) = job["environments"]
        assert environment["spec"]["dependencies"] == ["../../dist/*.whl", *own]


@pytest.mark.parametrize("target", BUNDLE["targets"])
def test_each_task_has_compute_in_each_target(target: str) -> None:
    serverless = target == SERVERLESS
    for job in jobs(target).values():
        keys = [each["environment_key"] for each in job.get("environments", ())]
        clusters = [each["job_cluster_key"] for each in job.get("job_clusters", ())]
        assert (keys, clusters) == (["steps"], []) if serverless else ([], ["steps"])
        for task in job["tasks"]:
            assert task.get("environment_key") == ("steps" if serverless else None)
            assert task.get("job_cluster_key") == (None if serverless else "steps")
            assert ("libraries" in task) != serverless


def test_nobody_is_granted_more_than_their_work_needs() -> None:
    found = granted()
    assert found
    for who, privilege in found:
        assert privilege in ENOUGH[who], (who, privilege)


def test_volumes_have_the_names_that_the_code_uses() -> None:
    volumes = load(RESOURCES / "ml_artifacts.yml")["resources"]["volumes"]
    assert {key: each["name"] for key, each in volumes.items()} == {
        STAGING_VOLUME: STAGING_VOLUME,
        LANDING: LANDING,
    }


def test_every_variable_is_declared_and_used() -> None:
    text = "".join(file.read_text() for file in FILES)
    used = set(re.findall(r"\$\{var\.(\w+)\}", text))
    assert used == set(BUNDLE["variables"])
    assert all(each.get("description") for each in BUNDLE["variables"].values())


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_has_few_rights_official_actions_and_no_secret(file: Path) -> None:
    content = load(file)
    assert content["permissions"] == {"contents": "read"}
    for name, job in content["jobs"].items():
        more = set(job.get("permissions", {})) - {"contents"}
        assert more == ({"id-token"} if name in ("staging", "prod") else set())
        for step in job["steps"]:
            assert "run" in step or re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
    assert "secrets." not in file.read_text()


def test_the_workflows_test_validate_and_deploy() -> None:
    assert [file.name for file in WORKFLOWS] == ["bundle.yml", "tests.yml"]
    steps = {
        name: [step["run"] for step in job["steps"] if "run" in step]
        for file in WORKFLOWS
        for name, job in load(file)["jobs"].items()
    }
    assert steps["tests"][-1] == "./run_tests.sh --all"
    for name in ("staging", "prod"):
        assert steps[name][-2:] == [
            f"databricks bundle validate -t {name} --strict",
            f"databricks bundle deploy -t {name}",
        ]
