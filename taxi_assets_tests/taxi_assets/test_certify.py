"""`certify` against the emulator as if it were Databricks: each item once, and no guess."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest_run import Home

from databricks_steps.settings import REPOSITORY, SAIL, STAGING_VOLUME
from taxi_assets.doctor import databricks
from taxi_assets.doctor.findings import look
from taxi_assets.emulator import auth, process
from taxi_assets.resources.targets import target

pytestmark = pytest.mark.slow  # a task on a cluster

ITEMS = {
    "a tag with a colon": "ok",
    "python_file on a volume": "ok",
    "wheel in Python workers": "ok",
    "_metadata.row_index": None,  # the engine's word
    "system.serving.served_entities": "differs",  # the emulator has no such table
    "last_modified of folders": "ok",
    "node types": "ok",
    "online store": "unknown",
    "identity of the endpoint": "unknown",
    "owner of the model": "unknown",
    "Python workers on serverless": "unknown",
}


@pytest.fixture(scope="module")
def environment(homes: Any) -> tuple[Home, dict[str, str]]:
    home: Home = homes("certified")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXI_SPARK", SAIL)  # of the emulator's tasks
        process.ensure_running(home.settings)
    token = auth.token(home.settings.token_file)
    host = home.settings.host
    return home, {"DATABRICKS_HOST": host, "DATABRICKS_TOKEN": token}


def test_every_item_is_probed_once_and_told(environment: tuple[Home, dict[str, str]]) -> None:
    home, known = environment
    done = home.call("certify", "--target", "dev", "--json", **known)
    found = {each["item"]: (each["state"], each["found"]) for each in json.loads(done.stdout)}
    assert list(found) == list(ITEMS), done.stderr
    for item, state in ITEMS.items():
        assert state in (None, found[item][0]), (item, found[item])
    assert found["wheel in Python workers"][1] == "a function of the wheel gave [0, 2]"
    assert found["a tag with a colon"][1] == "month 2022-01:2022-02"
    assert found["online store"][1].startswith("not there yet: ")
    assert done.returncode == 1  # something differs
    settings = home.settings
    volume = home.path / "volumes" / settings.catalog / settings.schema / STAGING_VOLUME
    assert [file.suffix for file in volume.rglob("*") if file.is_file()] == [".whl"]


@pytest.mark.long  # more of a kind
def test_a_cluster_that_cannot_be_had_is_what_differs(
    environment: tuple[Home, dict[str, str]],
) -> None:
    home, known = environment
    done = home.call("certify", "--target", "dev", "--json", **known, TAXI_CLOUD="aws")
    found = {each["item"]: (each["state"], each["found"]) for each in json.loads(done.stdout)}
    assert done.returncode == 1
    state, words = found["python_file on a volume"]
    assert state == "differs"
    assert "Node type m5d.xlarge is not supported" in words
    assert found["wheel in Python workers"][0] == "unknown"
    assert found["node types"][0] == "differs"
    plain = home.call("certify", "--target", "dev", **known, TAXI_CLOUD="aws")
    assert len(plain.stdout.splitlines()) == len(ITEMS)


@pytest.mark.long  # more of a kind
def test_workers_on_serverless_are_probed_where_steps_run_there(
    environment: tuple[Home, dict[str, str]],
) -> None:
    home, known = environment
    asked = ("certify", "--target", "dev", "--json")
    done = home.call(*asked, **known, TAXI_COMPUTE="serverless")
    found = {each["item"]: (each["state"], each["found"]) for each in json.loads(done.stdout)}
    said = "a function of the wheel gave [0, 2]"
    assert found["Python workers on serverless"] == ("ok", said), done.stderr


def test_an_environment_that_does_not_resolve_is_told_before_a_run(
    environment: tuple[Home, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, known = environment
    for name, text in {**known, "TAXI_COMPUTE": "serverless"}.items():
        monkeypatch.setenv(name, text)
    where = target("dev", {**os.environ, "TAXI_HOME": str(home.path)})
    assert where.cluster is not None
    lost = replace(where.cluster, libraries=("no-such-package==1.0",))
    asked = databricks.checks(replace(where, cluster=lost), deep=True)
    (found,) = look({"environment": asked["environment"]})
    assert (found.level, found.fix) == ("fail", "Correct LIBRARIES in resources/clusters.py")
    assert "Library installation failed: no-such-package==1.0" in found.found
    assert f"{home.settings.host}/#run/" in found.found  # where to look


def test_a_target_without_launched_steps_has_nothing_to_probe(
    environment: tuple[Home, dict[str, str]],
) -> None:
    home, _ = environment
    done = home.call("certify", "--target", "local")
    assert done.returncode == 1
    assert "error: certify probes a workspace that launches steps: local" in done.stderr


def test_the_documentation_names_every_item() -> None:
    told = Path(REPOSITORY / "docs" / "databricks.md").read_text(encoding="utf-8")
    assert [item for item in ITEMS if f"| {item} |" not in told.replace("`", "")] == []
