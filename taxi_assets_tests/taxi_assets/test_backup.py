"""Backup, restore and vacuum of a real home that goes on serving meanwhile."""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from conftest_run import MONTHS, ROWS, Home, table_rows
from deltalake import DeltaTable

from databricks_steps import schemas
from databricks_steps.settings import Settings
from databricks_steps.training import reproduction
from databricks_steps.trips.demo import demo_trips
from taxi_assets import backup, dagster_instance, home_inventory, vacuum
from taxi_assets.deployment.endpoint import BATCH_FILE, answer
from taxi_assets.deployment.online_store import workspace_client
from taxi_assets.emulator import auth
from taxi_assets.emulator.runtime import capture

pytestmark = pytest.mark.long  # homes of every kind, packed and restored

CAPTURED = ("endpoint_payloads",)  # grows with every request that a test sends
DAYS_LATER = 40


@dataclass(frozen=True)
class Restored:
    """A home that was backed up, the file, and the home that was made of it."""

    before: Home
    file: Path
    after: Home
    told: str


def client_of(home: Home) -> Any:
    return workspace_client(home.settings.host, auth.token(home.settings.token_file))


@contextmanager
def asked(home: Home) -> Iterator[list[int]]:
    """The endpoint is asked all the while, so that captured requests come in."""
    payload, client = json.loads(BATCH_FILE.read_text()), client_of(home)
    done, over = [0], threading.Event()

    def ask() -> None:
        while not over.is_set():
            answer(client, home.settings, payload)
            done[0] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def restored(first_run: Any, homes: Any, tmp_path_factory: pytest.TempPathFactory) -> Restored:
    home, _ = first_run
    file = tmp_path_factory.mktemp("backups") / "home.tar.gz"
    capture.flush(home.settings)
    with asked(home) as requests:
        done = home.call("backup", str(file))
        assert requests[0] > 0
    assert done.returncode == 0, done.stderr
    after = homes("restored")
    made = after.call("restore", str(file))
    assert made.returncode == 0, made.stderr
    served = after.call("serve")
    assert served.returncode == 0, served.stderr
    return Restored(home, file, after, done.stdout)


def test_the_restored_endpoint_answers_the_same(restored: Restored) -> None:
    for request in ("test_single_prediction.json", "test_batch_predictions.json"):
        path = str(BATCH_FILE.with_name(request))
        ours, theirs = (home.call("query", path) for home in (restored.before, restored.after))
        assert theirs.returncode == 0, theirs.stderr
        assert json.loads(theirs.stdout)["predictions"] == json.loads(ours.stdout)["predictions"]


def test_the_restored_tables_and_history_are_the_same(restored: Restored) -> None:
    tables = home_inventory.tables(restored.before.settings)
    payloads = restored.before.settings.table(restored.before.settings.payload_table)
    assert {"trips", "deployments", payloads} < {*tables}
    assert {*tables} == {*home_inventory.tables(restored.after.settings)}
    for name, root in tables.items():
        (version,) = re.findall(rf"^  {re.escape(name)} +version (\d+)$", restored.told, re.M)
        ours, theirs = (
            DeltaTable(str(found), version=int(version)).to_pyarrow_table()
            for found in (root, home_inventory.tables(restored.after.settings)[name])
        )
        assert theirs.num_rows > 0 or name in CAPTURED, name
        assert theirs.equals(ours), name  # also what was captured until then
    before, after = (history(home.settings) for home in (restored.before, restored.after))
    assert before["runs"]
    assert before["materialized"]["trips"]
    assert after == before


def history(settings: Settings) -> dict[str, Any]:
    """What Dagster's UI shows: runs, materializations and checks, by id and time."""
    checks = dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    with dagster_instance.instance(settings) as found:
        return {
            "runs": [(run.run_id, run.status) for run in found.get_runs()],
            "materialized": {
                key.to_user_string(): [
                    (record.run_id, record.partition_key, record.timestamp)
                    for record in found.fetch_materializations(key, limit=100).records
                ]
                for key in found.all_asset_keys()
            },
            "checks": [
                (entry.run_id, entry.event_log_entry.timestamp)
                for entry in found.get_event_records(checks)
            ],
        }


def test_no_token_and_no_lock_is_in_the_file(restored: Restored) -> None:
    token = restored.before.settings.token_file.read_text().strip()
    assert token.encode() not in gzip.decompress(restored.file.read_bytes())
    assert restored.after.settings.token_file.read_text().strip() != token
    with tarfile.open(restored.file) as archive:
        names = archive.getnames()
    assert "mlflow.db" in names
    assert {name.partition("/")[0] for name in names} <= {
        *home_inventory.BACKED_UP,
        "manifest.json",
    }
    assert "Left out" not in restored.told
    assert not [name for name in names if name.endswith((".lock", "-wal", "-shm"))]
    assert not [name for name in names if "_staging" in name]


@pytest.mark.long
def test_the_restored_home_forgets_what_no_model_needs_and_reproduces_the_rest(
    restored: Restored, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    home, last = restored.after, MONTHS[-1]
    corrected = demo_trips(last, ROWS).slice(0, ROWS * 3 // 4)
    pq.write_table(corrected, tmp_path / f"green_tripdata_{last}.parquet")
    run = home.call("run", "--source", str(tmp_path), "--months", last, "--skip-training")
    assert run.returncode == 0, run.stderr + run.stdout
    # The fares of trips that the correction took away are gone with them.
    assert ids(home, "batch_predictions", last) == ids(home, "trips", last)
    young = home.invoke("vacuum", "--keep", "1")
    assert young.stdout.splitlines()[-1] == "0.0 MiB gone", young.stderr

    for name in schemas.TABLES:
        days_later(home.settings.table_path(name))
    told = home.invoke("vacuum", "--dry-run")
    assert re.search(r"batch_predictions +[1-9]\d* files", told.stdout), told.stdout + told.stderr
    before = {name: table_rows(home, name) for name in ("trips", "batch_predictions")}
    files = {*home.settings.warehouse.rglob("*.parquet")}
    gone = home.call("vacuum")
    assert gone.returncode == 0, gone.stderr
    left = {*home.settings.warehouse.rglob("*.parquet")}
    counts = [int(n) for n in re.findall(r"(\d+) files", told.stdout)]
    assert len(files - left) == sum(counts) > 0
    assert re.search(r"trips .* keeps version \d", gone.stdout)
    assert {name: table_rows(home, name) for name in before} == before
    assert not re.search("[1-9][0-9]* files", home.invoke("vacuum").stdout)

    # Its trips and features were replaced, but the version can be made again.
    same = home.call("reproduce", "1", "--json")
    assert same.returncode == 0, same.stderr
    assert json.loads(same.stdout)["largest_difference"] == 0


def ids(home: Home, table: str, month: str) -> set[str]:
    rows = DeltaTable(str(home.settings.table_path(table))).to_pyarrow_table(
        columns=["trip_id"], partitions=[("trip_month", "=", month)]
    )
    return set(rows["trip_id"].to_pylist())


def days_later(root: Path) -> None:
    """Make what was replaced in a table look as if that were long ago."""
    for path in (root / "_delta_log").glob("*.json"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if "remove" in line:
                line["remove"]["deletionTimestamp"] -= DAYS_LATER * 86_400_000
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def rewritten(file: Path, to: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> Path:
    """An archive with every member changed by name and content."""
    with tarfile.open(file) as source, tarfile.open(to, "w:gz") as target:
        for member in source:
            found = source.extractfile(member)
            assert found is not None
            name, content = change(member.name, found.read())
            info = tarfile.TarInfo(name)
            info.size = len(content)
            target.addfile(info, io.BytesIO(content))
    return to


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("cut", "Compressed file ended before"),
        ("without its end", "it has no manifest: it was cut"),
        ("another alert", "last_run.json is not as it was written"),
        ("escape", r"\.\./last_run.json is no file below the home"),
        ("a token", "token is no part of a backup"),
        ("classes", "dagster/dagster.yaml is no part of a backup"),
        ("something else", "zeros is no part of a backup"),
        ("odd sums", "'list' object has no attribute 'items'"),
        ("format", "format 2, this version reads 1"),
        ("no archive", "not a gzip file"),
    ],
)
def test_a_file_that_is_no_whole_backup_restores_nothing(
    restored: Restored, tmp_path: Path, fault: str, message: str
) -> None:
    bad = tmp_path / "bad.tar.gz"

    def changed(name: str, content: bytes) -> tuple[str, bytes]:
        if name == "last_run.json":
            if fault == "another alert":
                content += b" "
            name = {
                "escape": "../last_run.json",
                "a token": "token",
                "classes": "dagster/dagster.yaml",
                "something else": "zeros",
            }.get(fault, name)
        if name == backup.MANIFEST:
            if fault == "without its end":
                name = "reports/other.json"
            if fault == "odd sums":
                content = json.dumps({**json.loads(content), "sha256": [1]}).encode()
            if fault == "format":
                content = json.dumps({**json.loads(content), "format": 2}).encode()
        return name, content

    if fault == "cut":
        whole = restored.file.read_bytes()
        bad.write_bytes(whole[: len(whole) // 2])
    elif fault == "no archive":
        bad.write_text("PK and no more")
    else:
        rewritten(restored.file, bad, changed)
    home = Home(tmp_path / "home", 1)
    done = home.invoke("restore", str(bad), TAXI_PORT="8200")
    assert done.returncode == 1
    assert "error: A backup must be a whole file that taxi-assets backup has written" in done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"bad.tar.gz"}


def test_what_is_there_stays(restored: Restored, tmp_path: Path) -> None:
    home = restored.before
    again = home.invoke("backup", str(restored.file))
    assert "error: A backup is a new file" in again.stderr
    over = home.invoke("restore", str(restored.file))
    assert f"error: A backup is restored into an empty home: {home.path} is not" in over.stderr
    nothing = Home(tmp_path / "home", home.port).invoke("backup", str(tmp_path / "file"))
    assert "error: A backup needs a home that was used" in nothing.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_backup_and_a_vacuum_wait_for_each_other(restored: Restored) -> None:
    home = restored.after
    with backup.files_stay(home.settings), backup.files_stay(home.settings):
        refused = home.call("vacuum")
    assert "error: Files go while no backup is taken" in refused.stderr
    with dagster_instance.only_run(home.settings):
        refused = home.call("vacuum")
    assert "error: Only one run at a time" in refused.stderr
    assert "at least 1 day: --keep 0" in home.invoke("vacuum", "--keep", "0").stderr


@pytest.mark.parametrize("lost", ["recipe", "registry"])
def test_vacuum_keeps_what_it_cannot_be_sure_of(
    restored: Restored, tmp_path: Path, lost: str
) -> None:
    """A month of trips is written anew, long ago, and who has learned from the old one is lost."""
    home = Home(tmp_path / "home", restored.before.port)
    assert home.invoke("restore", str(restored.file)).returncode == 0
    tables = home.settings.table_path("trips")
    DeltaTable(str(tables)).delete("trip_month = '2022-02'")
    days_later(tables)
    then = DeltaTable(str(tables), version=0).to_pyarrow_table().num_rows
    if lost == "registry":
        (home.path / "mlflow.db").write_bytes(b"")
    else:
        for recipe in home.settings.artifacts.rglob("recipe.json"):
            recipe.unlink()
    told = home.invoke("vacuum")
    if lost == "recipe":
        assert told.returncode == 1
        assert "recipe.json" in told.stderr
    assert DeltaTable(str(tables), version=0).to_pyarrow_table().num_rows == then


def test_a_version_of_before_table_versions_were_recorded_keeps_none(
    restored: Restored, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home", restored.before.port)
    assert home.invoke("restore", str(restored.file)).returncode == 0
    for path in home.settings.artifacts.rglob("recipe.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"table_versions": {}}))
    assert reproduction.table_versions(home.settings) == {}
    assert home.invoke("vacuum").returncode == 0


def test_vacuum_of_an_empty_home_makes_none(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    assert vacuum.vacuum(settings, 30, dry_run=False) == []
    assert not settings.home.exists()


def test_a_table_whose_files_are_gone_is_not_backed_up_in_silence(
    restored: Restored, tmp_path: Path
) -> None:
    home = Home(tmp_path / "broken", restored.before.port)
    assert home.invoke("restore", str(restored.file)).returncode == 0
    # A table whose first commit is being written is none yet.
    new = home.settings.table_path("trips").with_name("new") / "_delta_log"
    new.mkdir(parents=True)
    (new / "00000000000000000000.json#1").write_text("{")
    whole = tmp_path / "whole.tar.gz"
    assert home.invoke("backup", str(whole)).returncode == 0
    with tarfile.open(whole) as archive:
        assert not [name for name in archive.getnames() if "#" in name]
    whole.unlink()
    lost = Path(DeltaTable(str(home.settings.table_path("trips"))).file_uris()[0])
    lost.unlink()
    done = home.invoke("backup", str(tmp_path / "file.tar.gz"))
    assert done.returncode == 1
    assert f"error: The files of trips must be there, whole: {lost}" in done.stderr
    for commit in (home.settings.table_path("pickup_features") / "_delta_log").glob("*.json"):
        commit.rename(commit.with_suffix(".lost"))
    done = home.invoke("backup", str(tmp_path / "file.tar.gz"))
    assert done.returncode == 1
    assert "error: The log of pickup_features must have a commit" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"broken"}


def test_a_backup_that_was_killed_is_swept_by_the_next_and_one_at_work_is_not(
    settings: Settings, tmp_path: Path
) -> None:
    settings.warehouse.mkdir(parents=True)
    killed, at_work, other = (
        tmp_path / name
        for name in (f".old.tar.gz.1{backup.PART}", f".now.tar.gz.2{backup.PART}", ".mine.part")
    )
    for file in (killed, other):
        file.write_bytes(b"x")
    with at_work.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        backup.backup(settings, tmp_path / "new.tar.gz")
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} == {
        *(at_work.name, other.name, "new.tar.gz")
    }
