"""The doctor on a Databricks target: a workspace over HTTP, right in all, and each fault once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest_run import free_port

from taxi_assets import doctor
from taxi_assets.doctor import databricks
from taxi_assets.resources.targets import target
from taxi_assets_tests.documents import Documents, answering

pytestmark = pytest.mark.slow  # waits for a workspace that is not there
ME = "runner@example.com"
MODEL = "p03.e2e_demo_simon.dev_mlops_stacks_gcp_fs_model"
FEATURES = ("p03.e2e_demo_simon.pickup_features", "p03.e2e_demo_simon.dropoff_features")
KEYED = [{"primary_key_constraint": {"name": "pk", "child_columns": ["location_id"]}}]
CATALOG = "/api/2.1/unity-catalog"
SERVED = f"{CATALOG}/effective-permissions/table/system.serving.served_entities"
ENDPOINT = "/api/2.0/serving-endpoints/mlops-taxi-fare-endpoint"
STORE = "/api/2.0/feature-store/online-stores/taxi-online-store"


def effective(*privileges: str) -> dict[str, Any]:
    held = [{"privilege": each} for each in privileges]
    return {"privilege_assignments": [{"principal": ME, "privileges": held}]}


def documents() -> dict[str, Any]:
    """What a workspace answers where all is right, by path."""
    table = {
        "properties": {databricks.FEED: "true"},
        "table_constraints": KEYED,
    }
    return {
        "/api/2.0/preview/scim/v2/Me": {"userName": ME},
        f"{CATALOG}/effective-permissions/catalog/p03": effective("USE_CATALOG"),
        f"{CATALOG}/effective-permissions/schema/p03.e2e_demo_simon": effective(
            *databricks.NEEDED["schema"]
        ),
        f"{CATALOG}/effective-permissions/volume/p03.e2e_demo_simon.dagster_staging": effective(
            databricks.ALL
        ),
        f"{CATALOG}/effective-permissions/function/{MODEL}": effective("EXECUTE"),
        SERVED: effective("SELECT"),
        ENDPOINT: {"name": "mlops-taxi-fare-endpoint", "creator": ME},
        STORE: {"name": "taxi-online-store", "capacity": "CU_1", "state": "AVAILABLE"},
        **{f"{CATALOG}/tables/{name}": {**table, "full_name": name} for name in FEATURES},
        f"{CATALOG}/models/{MODEL}": {"full_name": MODEL, "owner": ME},
        "/api/2.1/clusters/list-node-types": {"node_types": [{"node_type_id": "Standard_D4s_v3"}]},
        "/api/2.1/clusters/spark-versions": {"versions": [{"key": "17.3.x-cpu-ml-scala2.13"}]},
    }


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The documents of a workspace that answers; change them before it is asked."""
    found = documents()
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_TOKEN", "a-token-of-no-one")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("TAXI_HOME", str(tmp_path / "home"))
    with answering(type("Own", (Documents,), {"documents": found})) as host:
        monkeypatch.setenv("DATABRICKS_HOST", host)
        yield found


def examined() -> dict[str, doctor.Finding]:
    return {each.check: each for each in doctor.examined(target("dev"))}


def test_a_target_where_all_is_right(workspace: dict[str, Any]) -> None:
    found = examined()
    own = {name: found[name] for name in databricks.checks(target("dev"))}
    assert {each.level for each in own.values()} == {"ok"}, own
    assert own["credentials"].found.startswith(f"{ME} at http://127.0.0.1:")
    assert own["alias"].found == f"{ME} owns {MODEL}"
    assert own["runtime"].found == "17.3.x-cpu-ml-scala2.13"
    assert own["primary keys"].found == "pickup_features, dropoff_features"
    assert "a-token-of-no-one" not in str(found)


REMOTE_FAULTS = (
    (
        *("/api/2.0/preview/scim/v2/Me", {"status": 403}, "credentials"),
        *("/api/2.0/preview/scim/v2/Me PERMISSION_DENIED", "Correct DATABRICKS_HOST"),
    ),
    (
        *(f"{CATALOG}/effective-permissions/catalog/p03", effective()),
        *("catalog", f"{ME} lacks USE CATALOG on p03", "Grant it: docs/databricks.md"),
    ),
    (
        f"{CATALOG}/effective-permissions/schema/p03.e2e_demo_simon",
        effective("USE_SCHEMA", "SELECT", "MODIFY", "CREATE_TABLE"),
        *("schema", f"{ME} lacks CREATE MODEL on p03.e2e_demo_simon", "Grant it"),
    ),
    (
        f"{CATALOG}/effective-permissions/volume/p03.e2e_demo_simon.dagster_staging",
        *({"status": 404}, "volume", "there is no volume p03.e2e_demo_simon.dagster_staging"),
        "databricks bundle deploy -t dev",
    ),
    (
        f"{CATALOG}/tables/{FEATURES[1]}",
        {"full_name": FEATURES[1], "table_constraints": KEYED},
        *("change data feed", f"{FEATURES[1]} has none", f"ALTER TABLE {FEATURES[1]} SET"),
    ),
    (
        f"{CATALOG}/tables/{FEATURES[0]}",
        {"full_name": FEATURES[0], "properties": {databricks.FEED: "true"}},
        *("primary keys", f"{FEATURES[0]} has no primary key", "materialize it again"),
    ),
    (
        f"{CATALOG}/models/{MODEL}",
        {"full_name": MODEL, "owner": "another"},
        *("alias", f"{ME} may not set aliases of {MODEL}, its owner is another", "Grant MANAGE"),
    ),
    (
        *(f"{CATALOG}/effective-permissions/catalog/p03", {"status": 403}),
        *("catalog", f"{ME} may not look at catalog p03: ", "Grant it: docs/databricks.md"),
    ),
    (
        *(STORE, {"name": "taxi-online-store", "capacity": "CU_1", "state": "DELETING"}),
        *("online store", "taxi-online-store is DELETING", "Wait until it is gone"),
    ),
    (
        "/api/2.1/clusters/spark-versions",
        {"versions": [{"key": "15.4.x-scala2.12"}]},
        *("runtime", "the workspace has no runtime 17.3", "TAXI_SPARK_VERSION to one of: 15.4"),
    ),
    (
        "/api/2.1/clusters/list-node-types",
        {"node_types": [{"node_type_id": "m5d.xlarge"}]},
        *("node type", "the workspace has no node type Standard_D4s_v3", "Set TAXI_CLOUD to its"),
    ),
)


@pytest.mark.parametrize("fault", REMOTE_FAULTS, ids=lambda fault: fault[2])
def test_each_fault_of_a_target_is_told_with_its_fix(
    workspace: dict[str, Any], fault: tuple[str, dict[str, Any], str, str, str]
) -> None:
    path, document, check, words, fix = fault
    workspace[path] = document
    found = examined()
    assert found[check].level == "fail"
    assert words in found[check].found, found[check]
    assert fix in found[check].fix
    others = {*databricks.checks(target("dev"))} - {check}
    if check == "credentials":
        blind = ("fail", "cannot be looked at without the workspace", "Mend credentials first")
        told = {(found[name].level, found[name].found, found[name].fix) for name in others}
        assert told == {blind}
    else:
        assert {found[name].level for name in others} == {"ok"}, found


WARNED = (
    (STORE, {"capacity": "CU_1", "state": "STOPPED"}, "online store", "STOPPED", "starts it"),
    (SERVED, effective(), "served entities", f"{ME} lacks SELECT on system.serving", "Grant it"),
    (SERVED, {"status": 403}, "served entities", "PERMISSION_DENIED", "Grant it"),
    (SERVED, {"status": 404}, "served entities", "there is no system.serving", "Enable the"),
)


@pytest.mark.parametrize("fault", WARNED, ids=lambda fault: fault[3])
def test_what_a_run_can_do_without_is_a_warning(
    workspace: dict[str, Any], fault: tuple[str, dict[str, Any], str, str, str]
) -> None:
    path, document, check, words, fix = fault
    workspace[path] = document
    found = examined()[check]
    assert found.level == "warn"
    assert words in found.found
    assert fix in found.fix


@pytest.mark.parametrize("made", [True, False])
def test_a_person_is_not_to_be_the_endpoint_of_prod(workspace: dict[str, Any], made: bool) -> None:
    name = "mlops-taxi-fare-endpoint-prod"
    if made:
        workspace[f"{ENDPOINT}-prod"] = {"name": name, "creator": "person@example.com"}
    found = {each.check: each for each in doctor.examined(target("prod"))}["endpoint"]
    assert found.level == "fail"
    who = (
        "was created by person@example.com, a person" if made else f"{ME} will create it, a person"
    )
    assert who in found.found
    assert "Let the service principal make it" in found.fix
    principal = "5c1a9a3e-0000-4000-8000-000000000000"
    workspace[f"{ENDPOINT}-prod"] = {"name": name, "creator": principal}
    found = {each.check: each for each in doctor.examined(target("prod"))}["endpoint"]
    assert (found.level, found.found) == ("ok", f"{name} was created by {principal}")


def test_before_the_first_run_there_is_neither_table_nor_model(workspace: dict[str, Any]) -> None:
    for name in (*(f"{CATALOG}/tables/{n}" for n in FEATURES), f"{CATALOG}/models/{MODEL}"):
        del workspace[name]
    found = examined()
    for check in ("change data feed", "primary keys", "alias"):
        assert found[check].level == "ok"
        assert "the first run makes" in found[check].found


def test_without_credentials_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, workspace: dict[str, Any]
) -> None:
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN"):
        monkeypatch.delenv(name)
    found = examined()["credentials"]
    assert found.level == "fail"
    assert found.found.startswith("A Databricks target needs a workspace and credentials")
    assert found.fix.startswith("Set DATABRICKS_HOST and DATABRICKS_TOKEN")


def test_a_workspace_that_is_not_there_is_told_once(
    monkeypatch: pytest.MonkeyPatch, workspace: dict[str, Any]
) -> None:
    host = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("DATABRICKS_HOST", host)
    found = examined()
    told = found["credentials"]
    assert told.found.startswith(f"The workspace must answer to these credentials: {host}: ")
    assert told.found.endswith("Connection refused")
    others = {*databricks.checks(target("dev"))} - {"credentials"}
    assert {found[name].fix for name in others} == {"Mend credentials first"}


def test_who_is_not_known_asks_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch, workspace: dict[str, Any]
) -> None:
    asked: list[str] = []

    class Refusing(Documents):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.answer(403, "the token has expired")

    with answering(Refusing) as host:
        monkeypatch.setenv("DATABRICKS_HOST", host)
        assert f"{host}: the token has expired" in examined()["credentials"].found
    assert [path for path in asked if path.startswith("/api/")] == ["/api/2.0/preview/scim/v2/Me"]
