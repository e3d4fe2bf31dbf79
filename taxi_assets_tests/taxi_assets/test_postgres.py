"""Dagster's records in PostgreSQL: a real server of Debian's package, and a pipeline on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from conftest_run import free_port

from databricks_steps.errors import SettingsError
from databricks_steps.settings import REPOSITORY, Settings
from taxi_assets import dagster_instance
from taxi_assets.resources.targets import POSTGRES
from taxi_assets.sensors import event_reader

pytestmark = pytest.mark.long  # a PostgreSQL and a pipeline on it

PASSWORD = "a-password-of-no-one"


def programs() -> Path | None:
    """The folder of PostgreSQL's programs: Debian keeps them off PATH."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


@dataclass(frozen=True)
class Server:
    """A server that is up, and a database of it that nobody has used."""

    port: int

    def url(self, database: str) -> str:
        return f"{dagster_instance.SCHEME}dagster:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def query(self, statement: str, database: str = "dagster") -> list[tuple[Any, ...]]:
        import psycopg2

        plain = self.url(database).replace(dagster_instance.SCHEME, "postgresql://")
        with closing(psycopg2.connect(plain)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # It refuses to be root, and another user cannot look into pytest's folders, where a Spark
    # session of an earlier test has put temporary files; a socket's name must be short, too.
    as_user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as folder:
        if as_user:
            shutil.chown(folder, **as_user)
        data, port = Path(folder) / "data", free_port()
        (Path(folder) / "password").write_text(PASSWORD)
        (Path(folder) / "password").chmod(0o644)

        def call(program: str, *arguments: str) -> None:
            command = [str(found / program), "-D", str(data), *arguments]
            subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **as_user)

        call("initdb", "-U", "dagster", "-A", "scram-sha-256", f"--pwfile={folder}/password")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        call("pg_ctl", "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            up = Server(port)
            up.query("CREATE DATABASE dagster", "postgres")
            yield up
        finally:
            call("pg_ctl", "-m", "immediate", "stop")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.mark.long
def test_a_pipeline_keeps_its_records_in_postgresql_and_sensors_read_them(
    server: Server, homes: Any, small_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, url = homes("postgres"), server.url("dagster")
    done = home.call("run", "--source", str(small_source), TAXI_DAGSTER_POSTGRES=url)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "status: success" in done.stdout
    monkeypatch.setenv(POSTGRES, url)
    with dagster_instance.instance(home.settings) as found:
        assert {run.status for run in found.get_runs()} == {dg.DagsterRunStatus.SUCCESS}
        runs = {run.run_id for run in found.get_runs()}
        promoted = found.get_latest_materialization_event(dg.AssetKey("champion_model"))
        assert promoted is not None
        assert promoted.run_id in runs
        told = event_reader.events(found, 0, ())
        kinds = {record.event_log_entry.dagster_event_type for record in told.records}
        assert {event_reader.CHECK, event_reader.SUCCEEDED} <= kinds
        assert [record.storage_id for record in told.records] == sorted(
            record.storage_id for record in told.records
        )
    assert {row[0] for row in server.query("SELECT run_id FROM runs")} == runs
    dagster = home.path / "dagster"
    assert not list(dagster.rglob("runs.db"))
    # The password is nowhere but in the environment.
    for path in dagster.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path
    assert PASSWORD not in done.stdout + done.stderr
    status = home.call("status", TAXI_DAGSTER_POSTGRES=url)
    assert status.returncode == 0, status.stderr
    assert "champion" in status.stdout


def test_the_environment_says_which_storage_a_home_has(
    server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.query("CREATE DATABASE other", "postgres")
    config = settings.home / "dagster" / "dagster.yaml"
    for url in ("", server.url("other"), ""):
        monkeypatch.setenv(POSTGRES, url)
        with dagster_instance.instance(settings) as found:
            assert "Postgres" in type(found.run_storage).__name__ or not url
            found.add_dynamic_partitions("kept", [url or "sqlite"])
        read = yaml.safe_load(config.read_text())
        assert read.get("storage") == (
            {"postgres": {"postgres_url": {"env": POSTGRES}}} if url else None
        )
        assert read["concurrency"] == {"runs": {"max_concurrent_runs": 1}}
        assert read["run_monitoring"] == {"enabled": True, "start_timeout_seconds": 600}
    monkeypatch.setenv(POSTGRES, server.url("other"))
    with dagster_instance.instance(settings) as found:  # each storage has kept its own
        assert found.get_dynamic_partitions("kept") == [server.url("other")]


def test_a_server_that_does_not_answer_is_one_error_without_the_password(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{dagster_instance.SCHEME}dagster:{PASSWORD}@127.0.0.1:{free_port()}/dagster"
    monkeypatch.setenv(POSTGRES, url)
    expected = "The PostgreSQL of TAXI_DAGSTER_POSTGRES must answer"
    with (
        pytest.raises(SettingsError, match=expected) as told,
        dagster_instance.instance(settings) as found,
    ):
        found.get_runs()
    assert "Connection refused" in str(told.value)
    assert PASSWORD not in str(told.value)


def test_a_url_of_another_driver_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES, f"postgresql://dagster:{PASSWORD}@db/dagster")
    expected = r"must begin with postgresql\+psycopg2://: postgresql:…"
    with pytest.raises(SettingsError, match=expected) as told:
        dagster_instance.instance(settings)
    assert PASSWORD not in str(told.value)


def test_the_compose_file_runs_the_three_parts_of_dagster_on_this_code() -> None:
    compose = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    services = compose["services"]
    apart = {"gateway", "prometheus", "grafana"}  # see test_dashboards.py
    assert {*services} - apart == {"postgres", "code", "webserver", "daemon"}
    for name in ("code", "webserver", "daemon"):
        assert POSTGRES in services[name]["environment"]
        assert services[name]["build"] == "."
    (workspace,) = yaml.safe_load((REPOSITORY / "compose-workspace.yaml").read_text())["load_from"]
    assert workspace["grpc_server"]["host"] in services
    assert f"-p {workspace['grpc_server']['port']} " in services["code"]["command"]
    published = [port for each in services.values() for port in each.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in dockerfile.splitlines() if line.startswith("COPY")]
    for name in (name for names in copied for name in names):
        assert (REPOSITORY / name).exists(), name


def pins(lock: str) -> set[str]:
    lines = (REPOSITORY / lock).read_text().splitlines()
    return {line.split()[0] for line in lines if re.match(r"[a-z0-9][\w.-]*==", line)}


def test_the_image_has_the_locked_versions_no_test_tools_and_no_root() -> None:
    image, whole = pins("requirements-image.lock"), pins("requirements.lock")
    assert image < whole
    names = {pin.partition("==")[0] for pin in image}
    named: dict[str, set[str]] = {}
    for wanted in requires("taxi-assets") or ():
        extra = re.search(r"extra == .(\w+).", wanted)
        name = re.split(r"[\[<>=;! ]", wanted)[0]
        named.setdefault(extra[1] if extra else "", set()).add(name)
    assert named[""] | named["orchestrator"] | named["embedded"] | named["postgres"] <= names | {
        "taxi-assets"
    }
    for tool in ("pytest", "ruff", "mypy", "hypothesis", "schemathesis", "duckdb", "uv"):
        assert tool in named["dev"]
        assert tool not in names
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    assert "pip install --no-cache-dir -r requirements-image.lock" in dockerfile
    last_user = [line for line in dockerfile.splitlines() if line.startswith("USER")][-1]
    assert last_user == "USER taxi"


def test_dockers_own_compose_reads_the_file() -> None:
    docker = shutil.which("docker")
    asked = [str(docker), "compose", "version"]
    if docker is None or subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("Docker's compose is not installed")
    done = subprocess.run(
        [docker, "compose", "-f", str(REPOSITORY / "compose.yaml"), "config", "--quiet"],
        capture_output=True,
        text=True,
        env={**os.environ, "TAXI_POSTGRES_PASSWORD": PASSWORD},
        check=False,
    )
    assert done.returncode == 0, done.stderr
