"""The doctor on this machine: a healthy home, and each fault planted once."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest_run import Home, free_port
from deltalake import DeltaTable

from databricks_steps.settings import JVM, REPOSITORY, Settings
from taxi_assets import doctor, home_inventory
from taxi_assets.backup import data_files
from taxi_assets.doctor import contents, databricks, machine
from taxi_assets.resources.targets import target

pytestmark = pytest.mark.slow

Told = dict[str, dict[str, str]]


def told(home: Home, *arguments: str, **environment: str) -> tuple[int, Told]:
    done = home.invoke("doctor", "--json", *arguments, **environment)
    assert done.stdout, done.stderr
    return done.returncode, {each["check"]: each for each in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def healthy(first_run: Any, homes: Any, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home of its own, so that faults can be planted: what a run made, restored."""
    home, _ = first_run
    file = tmp_path_factory.mktemp("doctor") / "home.tar.gz"
    assert home.invoke("backup", str(file)).returncode == 0
    own: Home = homes("doctor")
    assert own.invoke("restore", str(file)).returncode == 0
    served = own.invoke("serve")
    assert served.returncode == 0, served.stderr
    return own


def test_a_healthy_home_is_ok_in_every_line(healthy: Home) -> None:
    code, found = told(healthy)
    assert code == 0
    bad = {name: each for name, each in found.items() if each["level"] == "fail"}
    assert bad == {}
    assert re.fullmatch(r"\d+ open, every file is there, whole", found["tables"]["found"])
    assert found["registry"]["found"] == "version 1 is champion"
    assert found["online tables"]["found"] == "2 published, as new as their tables"
    assert "is READY, version 1" in found["endpoint"]["found"]
    assert "this home's workspace" in found["port"]["found"]
    assert re.fullmatch(r"Sail [\d.]+, no JVM", found["engine"]["found"])
    text = healthy.invoke("doctor")
    assert text.returncode == 0
    assert text.stdout.count("\nok ") >= 9
    assert "\x1b[" not in text.stdout  # colours on a terminal alone


def old_java(folder: Path, home: Home) -> dict[str, str]:
    program = folder / "java"
    program.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    program.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return {"PATH": path, "JAVA_HOME": "", "TAXI_SPARK": JVM}


def no_java(folder: Path, home: Home) -> dict[str, str]:
    return {"JAVA_HOME": str(folder / "nowhere"), "TAXI_SPARK": JVM}


def much_memory(folder: Path, home: Home) -> dict[str, str]:
    return {"TAXI_DRIVER_MEMORY": "9000g"}


def odd_memory(folder: Path, home: Home) -> dict[str, str]:
    return {"TAXI_DRIVER_MEMORY": "much"}


def a_file_in_the_way(folder: Path, home: Home) -> dict[str, str]:
    (folder / "file").write_text("")
    return {"TAXI_HOME": str(folder / "file" / "home")}


def a_zone_of_mars(folder: Path, home: Home) -> dict[str, str]:
    return {"TZ": "Mars/Olympus"}


def a_table_without_a_file(folder: Path, home: Home) -> dict[str, str]:
    copy = copied(folder, home)
    Path(DeltaTable(str(copy.table_path("trips"))).file_uris()[0]).unlink()
    return {"TAXI_HOME": str(copy.home)}


def a_table_with_a_file_that_was_cut(folder: Path, home: Home) -> dict[str, str]:
    copy = copied(folder, home)
    cut = Path(DeltaTable(str(copy.table_path("trips"))).file_uris()[0])
    cut.write_bytes(cut.read_bytes()[:-100])
    return {"TAXI_HOME": str(copy.home)}


def a_table_without_a_log(folder: Path, home: Home) -> dict[str, str]:
    copy = copied(folder, home)
    shutil.rmtree(copy.table_path("trips") / "_delta_log")
    return {"TAXI_HOME": str(copy.home)}


def a_table_of_another_version(folder: Path, home: Home) -> dict[str, str]:
    copy = copied(folder, home)
    log = copy.table_path("pickup_features") / "_delta_log"
    for commit in log.glob("*.json"):
        name = r"\"pickup_trip_count_24h\",\"type\":"
        commit.write_text(commit.read_text().replace(name + r"\"long", name + r"\"string"))
    return {"TAXI_HOME": str(copy.home)}


def a_registry_that_is_no_database(folder: Path, home: Home) -> dict[str, str]:
    copy = copied(folder, home)
    (copy.home / "mlflow.db").write_text("not a database, whatever its name says")
    return {"TAXI_HOME": str(copy.home)}


def a_model_without_its_graph(folder: Path, home: Home) -> dict[str, str]:
    copy = copied(folder, home)
    with closing(sqlite3.connect(copy.home / "mlflow.db")) as connection, connection:
        for table, column in (
            ("logged_models", "artifact_location"),
            ("model_versions", "storage_location"),
        ):
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (str(home.path), str(copy.home)),
            )
    for graph in copy.artifacts.rglob("model.onnx"):
        graph.unlink()
    return {"TAXI_HOME": str(copy.home)}


def no_champion(folder: Path, home: Home) -> dict[str, str]:
    copy = copied(folder, home)
    with closing(sqlite3.connect(copy.home / "mlflow.db")) as connection, connection:
        connection.execute("DELETE FROM registered_model_aliases")
    return {"TAXI_HOME": str(copy.home)}


def online_tables_of_yesterday(folder: Path, home: Home) -> dict[str, str]:
    copy = copied(folder, home)
    table = DeltaTable(str(copy.table_path("pickup_features")))
    table.alter.set_table_properties({"delta.logRetentionDuration": "interval 60 days"})
    return {"TAXI_HOME": str(copy.home)}


def no_endpoint(folder: Path, home: Home) -> dict[str, str]:
    return {"TAXI_HOME": str(copied(folder, home).home)}


def copied(folder: Path, home: Home) -> Settings:
    shutil.copytree(home.path, folder / "home", ignore=shutil.ignore_patterns("*.lock"))
    return Settings(home=folder / "home")


FAULTS: tuple[tuple[Callable[[Path, Home], dict[str, str]], str, str, str, str], ...] = (
    (old_java, "engine", "fail", 'Spark needs Java 17 or newer: .*"11.0.2"', "Install Java 17"),
    (no_java, "engine", "fail", "Spark needs Java: none found at", "Install Java 17"),
    (much_memory, "memory", "warn", "may take 9000.0", "Set TAXI_DRIVER_MEMORY lower"),
    (odd_memory, "memory", "fail", "TAXI_DRIVER_MEMORY must be a size: 'much'", "Write 3g"),
    (a_zone_of_mars, "timezone", "fail", "TZ names no zone: 'Mars/Olympus'", "Unset TZ"),
    (a_table_without_a_file, "tables", "fail", "trips lacks 1 files: /", "restore a backup"),
    (
        *(a_table_with_a_file_that_was_cut, "tables", "fail"),
        *("trips has 1 files of another size: /", "restore a backup"),
    ),
    (a_table_without_a_log, "tables", "fail", "trips does not open: ", "restore a backup"),
    (
        *(a_table_of_another_version, "tables", "fail"),
        *("pickup_features has pickup_trip_count_24h of another type", "another version"),
    ),
    (a_registry_that_is_no_database, "registry", "fail", "not a database", ""),
    (a_model_without_its_graph, "registry", "fail", "version 1 has no graph: /", "Train again"),
    (no_champion, "registry", "warn", "no champion", "Run once without --skip-training"),
    (
        *(online_tables_of_yesterday, "online tables", "warn"),
        *(r"pickup_features_online shows version \d+ of \d+", "Materialize pickup_features_online"),
    ),
    (no_endpoint, "endpoint", "warn", "not running", "taxi-assets serve"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0].__name__)
def test_each_fault_is_told_with_its_fix(
    healthy: Home, tmp_path: Path, fault: tuple[Any, str, str, str, str]
) -> None:
    plant, check, level, words, fix = fault
    port = str(free_port())
    code, found = told(healthy, **{"TAXI_PORT": port, **plant(tmp_path, healthy)})
    assert found[check]["level"] == level, found[check]
    assert re.search(words, found[check]["found"]), found[check]
    assert fix in found[check]["fix"], found[check]
    assert code == int(any(each["level"] == "fail" for each in found.values()))
    # What is not at fault is looked at all the same, and found right.
    machines = {*machine.checks(Settings())} - {check, "packages"}
    assert {found[name]["level"] for name in machines} == {"ok"}, found


def test_a_deep_look_reads_every_file(healthy: Home, tmp_path: Path) -> None:
    settings = copied(tmp_path, healthy)
    deep = contents.checks(settings)

    def levels() -> dict[str, tuple[str, str]]:
        return {each.check: (each.level, each.found) for each in doctor.findings.look(deep)}

    sound = levels()
    assert {level for level, _ in sound.values()} == {"ok"}, sound
    files = [p for root in home_inventory.tables(settings).values() for p, _ in data_files(root)]
    assert sound["data files"][1] == f"{len(files)} read"

    damaged = bytearray(files[0].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    files[0].write_bytes(damaged)
    level, told = levels()["data files"]
    assert (level, str(files[0].relative_to(settings.home)) in told) == ("fail", True)
    (settings.home / contents.SUMS).unlink()  # what was damaged before it was first read
    files[0].write_bytes(damaged[:4] + bytes(len(damaged) - 8) + damaged[-4:])
    assert levels()["data files"][0] == "fail"

    with closing(sqlite3.connect(settings.home / "workspace.db")) as connection, connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = connection.execute("PRAGMA page_size").fetchone()[0]
    text = bytearray((settings.home / "workspace.db").read_bytes())
    text[pages + 8 : pages + 40] = b"\xff" * 32
    (settings.home / "workspace.db").write_bytes(text)
    assert levels()["databases"][0] == "fail"

    ledger = DeltaTable(str(settings.table_path("deployments")))
    ledger.update({"to_version": "'7'"})
    level, told = levels()["records agree"]
    assert (level, told) == ("fail", "champion 1, ledger 7, endpoint none")


def test_a_taken_port_and_a_home_that_cannot_be(healthy: Home, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        code, found = told(Home(tmp_path / "home", 1), TAXI_PORT=port)
    assert (code, found["port"]["level"]) == (1, "fail")
    assert found["port"]["found"] == f"{port} is taken by another program"
    assert found["tables"]["found"].startswith("nothing yet")
    assert not (tmp_path / "home").exists()  # the doctor makes nothing
    text = healthy.invoke("doctor", **a_file_in_the_way(tmp_path, healthy))
    assert (text.returncode, text.stdout) == (1, "")
    assert "/file is a file" in text.stderr


def test_a_python_that_the_package_is_not_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, level in (((3, 9, 18), "fail"), ((3, 10, 0), "ok"), ((3, 14, 0), "fail")):
        monkeypatch.setattr(machine.sys, "version_info", found)
        (told,) = doctor.findings.look({"python": machine.python})
        assert (told.level, told.found.split(",")[0].split()[-1]) == (
            level,
            ".".join(map(str, found)),
        )
        assert ("PYTHON=" in told.fix) is (level == "fail")


def test_packages_that_differ_from_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "# a comment\nnumpy==0.1 \\\n    --hash=sha256:0 \\\n    --hash=sha256:1\n    # via us\n"
        "no-such-package==1.0\npytest>=1 # fine\n"
        "never==1 ; python_version < '3'\n"
    )
    monkeypatch.setattr(machine, "LOCK", lock)
    (found,) = doctor.findings.look({"packages": machine.packages})
    assert found.level == "warn"
    assert re.match(r"2 differ: numpy .* for ==0.1, no-such-package is missing", found.found)


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on() -> None:
    def breaks() -> str:
        raise RuntimeError("first line\nsecond line")

    found = doctor.findings.look({"one": breaks, "two": lambda: "fine"})
    assert [(each.check, each.level, each.found) for each in found] == [
        ("one", "fail", "RuntimeError: first line"),
        ("two", "ok", "fine"),
    ]


def test_the_page_names_every_check() -> None:
    page = (REPOSITORY / "docs" / "doctor.md").read_text()
    rows = re.findall(r"^\| ([a-z ]+) \| ", page, re.M)
    local, there = doctor.checks(target("local"), deep=True), databricks.checks(target("dev"), True)
    assert [name for name in rows if name != "check"] == [*local, *there]
