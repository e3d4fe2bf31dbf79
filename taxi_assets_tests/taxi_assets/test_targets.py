"""Targets: names, clusters and what a launched step is told; values that cannot be used."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from databricks_steps.errors import SettingsError
from databricks_steps.settings import DATABRICKS, EMBEDDED, JVM, SAIL, Settings
from databricks_steps.training import candidate, lineage
from databricks_steps.training.registry import Version
from taxi_assets.cli import main
from taxi_assets.definitions import build_defs
from taxi_assets.resources.clusters import NODE_TYPES, Cluster
from taxi_assets.resources.targets import LAUNCHED, NAMES, target


def cluster(**env: str) -> Cluster:
    found = target("dev", env).cluster
    assert found is not None
    return found


def submitted(found: Cluster) -> dict[str, object]:
    tags = {
        "dagster/asset_partition_range_start": "2022-01",
        "dagster/asset_partition_range_end": "2022-02",
    }
    return found.run_config("trips", "run-1", tags, {"A": "1"}, "/Volumes/a/b/c/x.whl")


@pytest.mark.parametrize(
    ("written", "port"),
    [(None, 8200), ('{"pid": 1, "port": 8300}', 8300), ("{", 8200), ("[]", 8200), ("{}", 8200)],
)
def test_a_home_knows_the_port_of_its_workspace(
    tmp_path: Path, written: str | None, port: int
) -> None:
    if written is not None:
        (tmp_path / "workspace.json").write_text(written)
    home = {"TAXI_HOME": str(tmp_path)}
    assert target("local", home).settings.port == port
    assert target("local", home | {"TAXI_PORT": "8400"}).settings.port == 8400


def test_each_databricks_target_has_its_own_names() -> None:
    for name in ("dev", "staging", "prod"):
        chosen = target(name, {})
        assert chosen.settings.platform == DATABRICKS
        assert chosen.settings.registered_model.endswith(f".{name}_mlops_stacks_gcp_fs_model")
        assert chosen.settings.experiment == f"/Shared/taxi-fare-{name}"
        assert chosen.settings.require_approval == (name == "prod")
    settings = [target(name, {}).settings for name in NAMES]
    for field in ("schema", "model", "endpoint", "online_store", "experiment"):
        assert len({getattr(each, field) for each in settings}) == 3, field


def test_a_developer_has_names_of_their_own_in_dev_alone() -> None:
    found = target("dev", {"TAXI_DEVELOPER": "anna"}).settings
    assert (found.schema, found.endpoint, found.online_store, found.experiment) == (
        "e2e_demo_simon_anna",
        "mlops-taxi-fare-endpoint-anna",
        "taxi-online-store-anna",
        "/Shared/taxi-fare-dev-anna",
    )
    assert found.registered_model == "p03.e2e_demo_simon_anna.dev_mlops_stacks_gcp_fs_model"
    assert target("dev", {"TAXI_DEVELOPER": "anna", "TAXI_SCHEMA": "x"}).settings.schema == "x"
    for name in ("staging", "prod"):
        assert target(name, {"TAXI_DEVELOPER": "anna"}).settings == target(name, {}).settings
    with pytest.raises(SettingsError, match="TAXI_DEVELOPER must be"):
        target("dev", {"TAXI_DEVELOPER": "Anna Lee"})


def test_a_variable_comes_before_the_targets_own_name() -> None:
    settings = target("dev", {"TAXI_CATALOG": "sandbox", "TAXI_ENDPOINT": ""}).settings
    assert (settings.catalog, settings.schema) == ("sandbox", "e2e_demo_simon")
    assert settings.endpoint == "mlops-taxi-fare-endpoint"


def test_each_databricks_target_keeps_its_own_records_on_this_machine(tmp_path: Path) -> None:
    homes = {name: target(name, {"TAXI_HOME": str(tmp_path)}).settings.home for name in NAMES}
    assert homes == {name: tmp_path / name for name in ("dev", "staging", "prod")}
    assert target("local", {"TAXI_HOME": str(tmp_path)}).settings.home == tmp_path
    on_cluster = {"TAXI_HOME": "/Volumes/a/b/c", LAUNCHED: "1"}
    assert str(target("dev", on_cluster).settings.home) == "/Volumes/a/b/c"


def test_only_dev_makes_models_of_demo_trips_by_default() -> None:
    sources = {name: target(name, {"TAXI_CATALOG": "lake"}).settings.source for name in NAMES}
    assert sources == {
        "dev": "demo",
        "staging": "/Volumes/lake/e2e_demo_simon_staging/landing",
        "prod": "/Volumes/lake/e2e_demo_simon_prod/landing",
    }
    assert target("prod", {"TAXI_SOURCE": "tlc:green"}).settings.source == "tlc:green"


def test_the_platform_of_a_databricks_target_is_not_for_a_variable_to_choose() -> None:
    assert target("dev", {"TAXI_PLATFORM": "embedded"}).settings.platform == DATABRICKS


def test_a_launched_step_is_told_its_names_and_no_folder_of_this_machine() -> None:
    told = target("staging", {"TAXI_HOME": "/home/somebody/.taxi"}).remote_environment()
    assert told["TAXI_PLATFORM"] == DATABRICKS
    assert told["TAXI_SCHEMA"] == "e2e_demo_simon_staging"
    assert told["TAXI_HOME"] == "/Volumes/p03/e2e_demo_simon_staging/dagster_staging/home"
    assert told[LAUNCHED] == "1"
    assert not [name for name, value in told.items() if "/home/somebody" in value]
    assert target("loopback", {"TAXI_HOME": "/tmp/x"}).remote_environment()["TAXI_HOME"] == "/tmp/x"


@pytest.mark.parametrize(
    ("variables", "engine"),
    [
        ({}, JVM),
        ({"TAXI_SPARK": SAIL}, SAIL),  # asked for by name
        ({"TAXI_SPARK": "local[2]"}, "local[2]"),
        ({"TAXI_SPARK": "spark://127.0.0.1:7077"}, "spark://127.0.0.1:7077"),
        ({"TAXI_SPARK": "sc://127.0.0.1:15002"}, JVM),  # it has no SparkContext
    ],
)
def test_loopback_rehearses_a_cluster(variables: dict[str, str], engine: str) -> None:
    chosen = target("loopback", variables)
    assert chosen.settings.spark == engine
    assert target(environment=chosen.remote_environment()).settings.spark == engine


def test_what_a_launched_step_is_told_makes_the_same_settings() -> None:
    for name in ("loopback", "dev", "prod"):
        chosen = target(name, {"TAXI_SOURCE": "/Volumes/p03/x/landing"})
        again = target(environment=chosen.remote_environment())
        assert again.launched
        assert again.settings.table("trips") == chosen.settings.table("trips")
        for field in ("platform", "source", "model", "endpoint", "experiment", "require_approval"):
            assert getattr(again.settings, field) == getattr(chosen.settings, field), field


def test_a_launched_step_is_told_the_commit_of_its_code() -> None:
    told = target("dev", {}).remote_environment()["TAXI_GIT_COMMIT"]
    assert told == lineage.commit()
    remote = Settings.from_environment({"TAXI_GIT_COMMIT": "abc123+"})
    assert lineage.current(remote, ("2022-01",), {}).commit == "abc123+"
    assert target("dev", {"TAXI_GIT_COMMIT": "abc"}).remote_environment()["TAXI_GIT_COMMIT"] == (
        "abc"
    )


def test_a_version_is_made_again_by_what_works_where_it_was_made() -> None:
    local = Settings(git_commit="abc123")
    ingredients = lineage.current(local, ("2022-01", "2022-02"), {})
    version = Version("7", "run", {}, {})
    assert candidate.made_again(local, version, ingredients) == "taxi-assets reproduce 7"
    there = replace(local, platform=DATABRICKS, schema="elsewhere")
    cell = candidate.made_again(there, version, ingredients)
    assert "taxi-assets" not in cell  # that command refuses a Databricks target
    assert "wheel of commit abc123\n" in cell
    # Up to its last line here; that one needs a cluster: see `test_databricks_steps.py`.
    *lines, last = cell.splitlines()
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    assert names["settings"] == Settings(platform=DATABRICKS, schema="elsewhere")
    assert last == "print(reproduce(platform(settings), '7'))"


def test_a_new_cluster_scales_from_a_pool_under_a_policy() -> None:
    found = submitted(
        cluster(
            TAXI_CLUSTER_WORKERS="2:8",
            TAXI_INSTANCE_POOL_ID="pool-1",
            TAXI_CLUSTER_POLICY_ID="policy-1",
        )
    )
    assert found["cluster"] == {
        "new": {
            "size": {"autoscale": {"min_workers": 2, "max_workers": 8}},
            "spark_version": "17.3.x-cpu-ml-scala2.13",
            "nodes": {"instance_pool_id": "pool-1"},
            "spark_conf": {},
            "spark_env_vars": {"A": "1"},
            "custom_tags": {
                "project": "taxi-assets",
                "target": "dev",
                "asset": "trips",
                "run": "run-1",
                "month": "2022-01:2022-02",
            },
            "data_security_mode": "SINGLE_USER",
            "policy_id": "policy-1",
        }
    }
    assert found["install_default_libraries"] is False


def test_steps_of_a_run_share_an_existing_cluster() -> None:
    assert submitted(cluster(TAXI_CLUSTER_ID="1124-abc"))["cluster"] == {"existing": "1124-abc"}
    found = cluster(TAXI_COMPUTE="1124-101010-abcdefgh")
    assert submitted(found)["cluster"] == {"existing": "1124-101010-abcdefgh"}
    assert not found.is_shared


@pytest.mark.parametrize("other", [{"TAXI_CLUSTER_ID": "x"}, {"TAXI_CLUSTER_SECRETS": "A=b/c"}])
def test_serverless_compute_has_neither_a_cluster_nor_its_secrets(other: dict[str, str]) -> None:
    assert cluster(TAXI_COMPUTE="serverless").is_serverless
    with pytest.raises(SettingsError, match="serverless takes neither"):
        target("dev", {"TAXI_COMPUTE": "serverless", **other})


def test_the_steps_of_a_run_share_one_cluster_unless_each_is_to_have_its_own() -> None:
    assert cluster().is_shared
    assert cluster(TAXI_COMPUTE="run", TAXI_INSTANCE_POOL_ID="pool-1").is_shared
    assert not cluster(TAXI_COMPUTE="job").is_shared
    assert not cluster(TAXI_COMPUTE="pool", TAXI_INSTANCE_POOL_ID="pool-1").is_shared
    spec = cluster(TAXI_CLUSTER_WORKERS="2:8").run_spec("run-1", {"A": "1"})
    assert spec == {
        "cluster_name": "taxi-assets run-1",
        "autotermination_minutes": 20,
        "spark_version": "17.3.x-cpu-ml-scala2.13",
        "node_type_id": "Standard_D4s_v3",
        "autoscale": {"min_workers": 2, "max_workers": 8},
        "spark_conf": {},
        "spark_env_vars": {"A": "1"},
        "custom_tags": {"project": "taxi-assets", "target": "dev", "run": "run-1"},
        "data_security_mode": "SINGLE_USER",
    }
    pooled = cluster(TAXI_INSTANCE_POOL_ID="pool-1").run_spec("run-1", {})
    assert (pooled["instance_pool_id"], pooled["num_workers"]) == ("pool-1", 1)
    assert "node_type_id" not in pooled


@pytest.mark.parametrize("cloud", sorted(NODE_TYPES))
def test_each_cloud_has_its_node_type_and_a_variable_comes_first(cloud: str) -> None:
    assert cluster(TAXI_CLOUD=cloud).node_type == NODE_TYPES[cloud]
    assert cluster(TAXI_CLOUD=cloud, TAXI_NODE_TYPE="x").node_type == "x"
    assert cluster().node_type == NODE_TYPES["azure"]


def test_permissions_and_secrets_are_references() -> None:
    found = cluster(
        TAXI_CLUSTER_PERMISSIONS="group:ml=CAN_VIEW, user:a@b.c=CAN_MANAGE,principal:p-1=CAN_VIEW",
        TAXI_CLUSTER_SECRETS="ALERT_URL=taxi/alert-url",
    )
    assert found.access() == [
        {"group_name": "ml", "permission_level": "CAN_VIEW"},
        {"user_name": "a@b.c", "permission_level": "CAN_MANAGE"},
        {"service_principal_name": "p-1", "permission_level": "CAN_VIEW"},
    ]
    assert found.secrets == (("ALERT_URL", "taxi", "alert-url"),)
    assert cluster().access() == []


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("TAXI_CLOUD", "oracle", r"must be a cloud: 'oracle'\. Use one of: azure, aws, gcp"),
        ("TAXI_COMPUTE", "big", r"must be run, job, pool, serverless or the id of a cluster"),
        ("TAXI_COMPUTE", "pool", r"A pool is named by its id: none\. Set TAXI_INSTANCE_POOL_ID"),
        ("TAXI_CLUSTER_WORKERS", "two", r"a number, or the least and the most: 'two'"),
        ("TAXI_CLUSTER_WORKERS", "8:2", r"the least and the most: '8:2'"),
        ("TAXI_STEP_SECONDS", "0", r"a whole number from 1 to 604800: '0'"),
        ("TAXI_CLUSTER_PERMISSIONS", "ml=CAN_VIEW", r"must name who may do what: 'ml=CAN_VIEW'"),
        ("TAXI_CLUSTER_SECRETS", "ALERT_URL=s3cr3t", r"must name variables with scope and key"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_error(variable: str, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        target("dev", {variable: text})


def test_a_text_that_may_be_a_secret_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as refused:
        target("dev", {"TAXI_CLUSTER_SECRETS": "ALERT_URL=s3cr3t"})
    assert "s3cr3t" not in str(refused.value)


def test_online_tables_are_compared_row_by_row_in_the_embedded_store_alone() -> None:
    keys = {
        name: build_defs(target(name, {})).resolve_asset_graph().asset_check_keys
        for name in ("local", "prod")
    }
    missing = {(k.asset_key.to_user_string(), k.name) for k in keys["local"] - keys["prod"]}
    assert missing == {
        (f"{side}_features_online", check)
        for side in ("pickup", "dropoff")
        for check in ("matches_offline", "feature_age")
    }


def test_the_assets_are_the_same_for_every_target() -> None:
    found: dict[str, set[dg.AssetKey]] = {}
    for name in ("local", "loopback", "dev", "staging", "prod"):
        defs = build_defs(target(name, {}))
        found[name] = {spec.key for spec in defs.resolve_all_asset_specs()}
    assert len({frozenset(keys) for keys in found.values()}) == 1


def test_the_platform_is_known_by_the_runtime_of_a_cluster() -> None:
    from databricks_steps.settings import Settings

    on_cluster = Settings.from_environment({"DATABRICKS_RUNTIME_VERSION": "17.3"})
    assert on_cluster.platform == DATABRICKS
    assert str(on_cluster.home).startswith("/Volumes/p03/")
    assert Settings.from_environment({}).platform == EMBEDDED
    with pytest.raises(SettingsError, match=r"TAXI_PLATFORM must be a platform: 'moon'"):
        Settings.from_environment({"TAXI_PLATFORM": "moon"})


@pytest.mark.parametrize(
    "arguments", [("serve",), ("stop",), ("mlflow",), ("vacuum",), ("scenario", "snowstorm")]
)
def test_what_only_this_machine_can_do_refuses_a_databricks_target(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAXI_TARGET", "prod")
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "works on the tables and the workspace of this machine: target prod" in done.output


def test_a_databricks_target_without_a_workspace_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith(("DATABRICKS_", "ARM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # no profile of anybody's
    monkeypatch.setenv("TAXI_HOME", str(tmp_path / "home"))
    for arguments, words in (
        (("run", "--target", "dev"), "A run on Databricks names its months: dev"),
        (
            ("run", "--target", "dev", "--months", "2022-01"),
            "A Databricks target needs a workspace and credentials",
        ),
    ):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 1
        assert words in done.output
        assert len(done.output.strip().splitlines()) == 1
