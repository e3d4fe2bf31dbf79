"""A registry that is not the home's own: a model nobody made yet, nobody may see, of many pages."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from databricks_steps.errors import ModelError
from databricks_steps.settings import DATABRICKS, LOOPBACK, Settings
from databricks_steps.training import registry
from databricks_steps.training.mlflow_database import MlflowDatabase


class Refusing(ThreadingHTTPServer):
    """Answers every request as Unity Catalog does when it says no, with `code` and its status.

    `pages`, by the token that asks for each, are what it tells of versions instead.
    """

    code, status = "RESOURCE_DOES_NOT_EXIST", 404
    pages: Mapping[str, Any] = {}

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _refuse(self) -> None:
                asked = self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"
                query = parse_qs(urlsplit(self.path).query)
                token = query.get("page_token", [json.loads(asked).get("page_token", "")])[0]
                told: Any = {"error_code": outer.code, "message": "Model 'p03.a.b': no such"}
                body = json.dumps(outer.pages.get(token, told)).encode()
                self.send_response_only(200 if token in outer.pages else outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = _refuse  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__((LOOPBACK, 0), Handler)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    server = Refusing()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("DATABRICKS_HOST", f"http://{LOOPBACK}:{server.server_address[1]}")
    monkeypatch.setenv("DATABRICKS_TOKEN", "token")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_that_nobody_made_yet_has_no_versions(
    refusing: Refusing, settings: Settings
) -> None:
    remote = replace(settings, platform=DATABRICKS)
    assert registry.made_from(remote, 17) is None
    assert registry.version(remote, registry.CHAMPION) is None
    with pytest.raises(ModelError, match="has no version '1'. There are: none"):
        registry.numbered(remote, "1")


def test_a_model_that_nobody_may_see_is_no_missing_one(
    refusing: Refusing, settings: Settings
) -> None:
    refusing.code, refusing.status = "PERMISSION_DENIED", 403
    remote = replace(settings, platform=DATABRICKS)
    with pytest.raises(ModelError, match="The model registry must answer"):
        registry.made_from(remote, 17)


def test_versions_are_read_from_all_pages(refusing: Refusing, settings: Settings) -> None:
    remote = replace(settings, platform=DATABRICKS)

    def page(numbers: range, following: str) -> dict[str, Any]:
        name = remote.registered_model
        found = [{"name": name, "version": str(n), "run_id": f"run{n}"} for n in numbers]
        return {"model_versions": found, "next_page_token": following}

    refusing.pages = {
        "": page(range(1, 101), "a"),
        "a": page(range(0), "b"),  # a page may be empty and yet not the last
        "b": page(range(101, 131), ""),
    }
    assert registry.numbers(remote) == [str(number) for number in range(130, 0, -1)]
    assert registry.registered_by(remote, "run130") == "130"


def test_a_homes_database_says_what_mlflows_client_says(settings: Settings) -> None:
    """Versions with and without a run, tags, aliases, not-a-number, one that was deleted."""
    assert registry.numbers(settings) == []  # before there is a database
    assert registry.version(settings, registry.CHAMPION) is None
    assert not settings.home.exists()
    client = registry.client(settings)
    name, experiment = settings.registered_model, client.get_experiment_by_name(settings.experiment)
    client.create_registered_model(name)
    for number, run_id in enumerate((True, True, True, False), start=1):
        run = client.create_run(experiment.experiment_id).info.run_id if run_id else None
        if run is not None:
            client.log_metric(run, "rmse", 3.5 + number)
            client.log_metric(run, "rmse", 3.0 + number, step=2)
            client.log_metric(run, "r2", float("nan"))
            client.log_text(run, f"text of {number}", "told.txt")
        tags = {registry.MADE_FROM: "17", "months": "2022-01", "odd": "a 'quote' and ünïcode"}
        client.create_model_version(name, f"file:///models/{number}", run, tags)
    client.delete_model_version(name, "3")
    client.set_registered_model_alias(name, registry.CHAMPION, "2")
    client.set_registered_model_alias(name, registry.CANDIDATE, "4")

    for number in ("1", "2", "4"):
        ours, theirs = (
            registry.numbered(settings, number),
            registry._version(settings, client.get_model_version(name, number)),
        )
        assert repr(ours) == repr(theirs)  # not-a-number equals nothing, but for its name
        assert ours.registered_at > 1e12
        told = client.get_model_version(name, number).source
        assert registry.folder(settings, number).as_posix() == told.removeprefix("file://")
        # Versions of before MLflow kept where their files are: as MLflow itself, by their source.
        for nothing in (None, ""):
            with closing(sqlite3.connect(settings.home / "mlflow.db")) as database, database:
                database.execute("UPDATE model_versions SET storage_location = ?", [nothing])
            assert registry.folder(settings, number).as_posix() == told.removeprefix("file://")
    assert registry.numbers(settings) == ["4", "2", "1"]
    assert registry.numbers(settings) == [str(v.version) for v in registry._newest_first(settings)]
    for alias, number in ((registry.CHAMPION, "2"), (registry.CANDIDATE, "4")):
        assert registry.require(settings, alias).number == number
    assert registry.version(settings, registry.PREVIOUS) is None
    newest = registry.made_from(settings, 17)
    assert newest is not None
    assert newest.number == "4"
    assert registry.made_from(settings, 18) is None
    assert registry.read_text(settings, registry.numbered(settings, "2"), "told.txt") == "text of 2"
    for number in ("3", "5", "-1", "x", "١"):
        with pytest.raises(ModelError, match="There are: 1, 2, 4"):
            registry.folder(settings, number)
    with pytest.raises(ModelError, match=r"must keep absent\.txt"):
        registry.read_text(settings, registry.numbered(settings, "2"), "absent.txt")
    other = replace(settings, model="another")
    assert registry.numbers(other) == []
    (settings.home / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(ModelError, match="The model registry must answer"):
        registry.numbers(settings)


def test_a_home_that_was_moved_finds_its_artifacts(tmp_path: Path) -> None:
    """Also one with a blank in its path, which addresses write in two ways."""
    before = Settings(home=tmp_path / "a home")
    client = registry.client(before)
    experiment = client.get_experiment_by_name(before.experiment)
    run = client.create_run(experiment.experiment_id)
    client.log_text(run.info.run_id, "told", "note.txt")
    client.create_registered_model(before.registered_model)
    source = f"{run.info.artifact_uri}/model"
    client.create_model_version(before.registered_model, source, run.info.run_id)

    moved = replace(before, home=tmp_path / "elsewhere" / "home")
    moved.home.parent.mkdir()
    before.home.rename(moved.home)
    found = MlflowDatabase(moved).artifacts(run.info.run_id)
    assert found is not None
    assert (found / "note.txt").read_text() == "told", "without a write"
    again = registry.client(moved)
    assert again.get_experiment_by_name(before.experiment).artifact_location == (
        moved.artifacts.as_uri()
    )
    assert [each.path for each in again.list_artifacts(run.info.run_id)] == ["note.txt"]
    assert not before.home.exists()


@pytest.mark.slow  # MLflow makes its database twice
def test_a_database_whose_making_was_killed_is_made_anew(settings: Settings) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mlflow.store.db import utils\n"
        "from databricks_steps.settings import Settings\n"
        "from databricks_steps.training import registry\n"
        "from mlflow.store.tracking import sqlalchemy_store\n"
        "utils._upgrade_db = lambda engine: os._exit(9)\n"  # tables are there, the newest not
        "registry.client(Settings(home=Path(sys.argv[1])))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(settings.home)], check=False)
    assert done.returncode == 9
    assert [f.name for f in settings.home.glob("*mlflow.db*")] == [".new-mlflow.db.part"]
    assert registry.client(settings).get_experiment_by_name(settings.experiment) is not None
    assert [f.name for f in settings.home.glob("*mlflow.db*")] == ["mlflow.db"]
