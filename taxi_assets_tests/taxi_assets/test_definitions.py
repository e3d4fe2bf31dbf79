"""What Dagster loads: the same names everywhere, the checks of the contract, nothing heavy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from databricks_steps import schemas
from databricks_steps.errors import SettingsError
from databricks_steps.settings import REPOSITORY
from databricks_steps.steps import STEPS
from taxi_assets import graph
from taxi_assets.definitions import defs
from taxi_assets.doctor import machine
from taxi_assets.emulator.runtime.cluster_packages import THERE_ALONE
from taxi_assets.partitions import MONTHS, RANGE_TAGS, run_months
from taxi_assets.resources import clusters
from taxi_assets.resources.targets import target

CLUSTER = {  # the Python of Databricks Runtime 17.3
    "python_version": "3.12",
    "python_full_version": "3.12.3",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
}
BLOCKING = {
    "trips": {"rows_conserved", "schema_contract"},
    "pickup_features": {"key_unique", "no_future_knowledge"},
    "dropoff_features": {"key_unique", "no_future_knowledge"},
    "fare_model": {
        "beats_baseline",
        "no_label_leak",
        "champion_not_better",
        "slices",
        "onnx_parity",
    },
    "pickup_features_online": {"matches_offline"},
    "dropoff_features_online": {"matches_offline"},
    "serving_endpoint": {"train_serve_parity"},
    "batch_predictions": {"rows_conserved", "no_null_predictions"},
}
MONTHLY = {
    "raw_trips",
    "arrivals",
    "trips",
    "quarantined_trips",
    "pickup_features",
    "dropoff_features",
    "batch_predictions",
    "endpoint_payloads",
    "drift_report",
    "live_performance",
}
UNPARTITIONED = {
    "training_set",
    "fare_model",
    "champion_model",
    "pickup_features_online",
    "dropoff_features_online",
    "serving_endpoint",
}


def nodes() -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def test_the_assets_are_those_of_the_design_and_cut_by_month_where_it_says() -> None:
    found = nodes()
    assert set(found) == MONTHLY | UNPARTITIONED
    assert {name for name, spec in found.items() if spec.partitions_def == MONTHS} == MONTHLY


def test_every_asset_tells_people_what_it_is() -> None:
    for name, spec in nodes().items():
        assert spec.description, name
        assert spec.owners, name
        assert spec.kinds, name
        assert spec.group_name not in (None, "default"), name


def test_table_step_and_asset_have_one_name() -> None:
    written = {name for step in STEPS.values() for name in step.writes}
    assert written <= set(nodes())
    # The deployment log is written by the orchestrator as the alias moves: no step on Spark does.
    assert set(schemas.TABLES) - written == {"deployments"}
    read = {name for step in STEPS.values() for name in step.reads}
    assert read <= set(nodes())
    for name in set(schemas.TABLES) & written:
        columns = nodes()[name].metadata["dagster/column_schema"].columns
        assert tuple(c.name for c in columns) == schemas.TABLES[name].names


def test_dependencies_are_those_of_the_steps() -> None:
    found = nodes()
    for step in STEPS.values():
        for name in step.writes:
            deps = {dep.asset_key.to_user_string() for dep in found[name].deps}
            assert deps == set(step.reads), name


def test_the_order_of_the_pipeline_is_that_of_the_steps() -> None:
    assert set(graph.BY_MONTH) == {
        *(
            "raw_trips",
            "arrivals",
            "trips",
            "quarantined_trips",
            "pickup_features",
            "dropoff_features",
        )
    }
    assert graph.upstream("raw_trips") == ()
    assert graph.upstream("batch_predictions")[-1] == "champion_model"
    groups = (graph.BY_MONTH, graph.TRAINING, graph.SERVING, graph.JUDGING, graph.PAYLOADS)
    assert sorted(name for group in groups for name in group) == sorted(nodes())


def test_blocking_checks_are_those_of_the_contract() -> None:
    found: dict[str, set[str]] = {}
    graph = defs.resolve_asset_graph()
    for key in graph.asset_check_keys:
        if graph.get_check_spec(key).blocking:
            found.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
    assert found == BLOCKING


def test_definitions_import_without_anything_heavy_and_start_nothing() -> None:
    code = (
        "import sys, taxi_assets.definitions;"
        "heavy = {'mlflow', 'sklearn', 'pandas', 'onnxruntime', 'skl2onnx', 'databricks.sdk',"
        " 'dagster_webserver', 'fastapi', 'deltalake'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_months_of_a_run_come_from_its_tags() -> None:
    assert run_months({}) is None
    assert run_months({"dagster/partition": "2022-02"}) == ("2022-02",)
    assert run_months(dict(zip(RANGE_TAGS, ("2021-12", "2022-02"), strict=True))) == (
        "2021-12",
        "2022-01",
        "2022-02",
    )


def test_an_unknown_target_is_refused_by_name() -> None:
    with pytest.raises(
        SettingsError, match=r"must be a target: 'moon'\. Use one of: local, loopback"
    ):
        target(environment={"TAXI_TARGET": "moon"})


def test_the_packages_are_listed_exactly() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    here = {
        ".".join(path.parent.relative_to(REPOSITORY).parts)
        for root in ("databricks_steps", "taxi_assets")
        for path in (REPOSITORY / root).rglob("__init__.py")
    }
    emulator = {"taxi_assets.emulator", "taxi_assets.emulator.api", "taxi_assets.emulator.runtime"}
    assert emulator <= here
    assert listed == here - emulator  # it stands in for what a cluster is


def test_the_workspace_file_names_the_definitions() -> None:
    found = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())
    assert found["load_from"][0]["python_module"]["module_name"] == "taxi_assets.definitions"
    tools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]
    assert tools["dagster"]["module_name"] == "taxi_assets.definitions"
    assert tools["dg"]["project"]["code_location_target_module"] == "taxi_assets.definitions"


def test_every_module_opens_with_its_charter() -> None:
    for root in ("databricks_steps", "taxi_assets", "taxi_assets_tests", "benchmarks"):
        for path in sorted(Path(REPOSITORY / root).rglob("*.py")):
            lines = path.read_text().splitlines()
            assert lines, path
            assert lines[0].startswith('"""'), path


def test_a_clusters_libraries_are_those_of_the_lock_for_its_python() -> None:
    locked = {
        wanted.name: str(wanted.specifier)
        for wanted in machine.locked()
        if wanted.marker is None or wanted.marker.evaluate(CLUSTER)
    }
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for library in map(Requirement, clusters.LIBRARIES):
        assert re.fullmatch(r"==[0-9.]+", str(library.specifier))
        if library.name in THERE_ALONE:
            assert library.name not in locked
        else:
            assert str(library.specifier) == locked[library.name]
    named = {Requirement(text).name for text in clusters.LIBRARIES}
    runtime = {"matplotlib", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy"}
    assert {Requirement(text).name for text in project["dependencies"]} <= named | runtime
