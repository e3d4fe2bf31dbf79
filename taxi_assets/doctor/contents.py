"""Deep checks of TAXI_HOME, which read every file: sums, databases, and whether records agree."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from databricks_steps import atomic_write, schemas
from databricks_steps.settings import Settings
from databricks_steps.training import registry
from taxi_assets import backup, home_inventory, status
from taxi_assets.doctor.findings import Check, FaultError

SUMS = "file_sums.json"  # below the home: data file → the sum it had when it was first read


def checks(settings: Settings) -> Mapping[str, Check]:
    return {
        "data files": lambda: data_files(settings),
        "databases": lambda: databases(settings),
        "records agree": lambda: records_agree(settings),
    }


def data_files(settings: Settings) -> str:
    """Every data file of every table can be read to its end, and is as it was the last time.

    Data files are never rewritten in place, so a sum that has changed is damage.
    """
    import pyarrow.parquet as pq

    file = settings.home / SUMS
    known = _known(file)
    sums: dict[str, str] = {}
    for path in _data_files(settings):
        name = str(path.relative_to(settings.home))
        sums[name] = _sum(path)
        if sums[name] != known.get(name, sums[name]):
            raise FaultError(f"{name} is not what it was", "taxi-assets restore a backup")
        if name not in known:
            try:
                for _ in pq.ParquetFile(path).iter_batches():
                    pass
            except Exception as error:  # of Arrow: its kinds differ by what is broken
                raise FaultError(
                    f"{name} cannot be read: {error}", "taxi-assets restore a backup"
                ) from error
    atomic_write.write(file, json.dumps(sums))
    return f"{len(sums):,} read" if sums else "nothing yet"


def _known(file: Path) -> dict[str, str]:
    """The sums of before; none of a file that is damaged: then every data file is read anew."""
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _sum(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as opened:
        while part := opened.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def _data_files(settings: Settings) -> Iterator[Path]:
    for root in home_inventory.tables(settings).values():
        yield from (path for path, _ in backup.data_files(root))


def databases(settings: Settings) -> str:
    """SQLite finds every database of the home whole."""
    home = settings.home
    places = [home / name for name in home_inventory.BACKED_UP if name.endswith(".db")]
    places += home_inventory.files(home / "dagster")
    found = [p for p in places if home_inventory.is_database(p.relative_to(home)) and p.exists()]
    for path in found:
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                told = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        except sqlite3.Error as error:
            told = [str(error)]
        if told != ["ok"]:
            name = path.relative_to(settings.home)
            raise FaultError(f"{name}: {told[0]}", "taxi-assets restore a backup")
    return f"{len(found)} are whole" if found else "nothing yet"


def records_agree(settings: Settings) -> str:
    """The champion's alias, the newest line of the ledger and the endpoint name one version."""
    if not (settings.home / "mlflow.db").exists():
        return "nothing yet"
    champion = registry.version(settings, registry.CHAMPION)
    moves = status.logs(settings).records(schemas.DEPLOYMENTS.name)
    newest = max(moves, key=lambda move: move["number"], default=None)
    endpoint = status.endpoint_state(settings)
    named = {
        "champion": champion and champion.number,
        "ledger": newest and newest["to_version"],
        "endpoint": endpoint and str(endpoint["version"]),
    }
    told = {name: version for name, version in named.items() if version}
    if len({*told.values()}) > 1 or (champion is not None and newest is None):
        shown = ", ".join(f"{name} {version or 'none'}" for name, version in named.items())
        raise FaultError(shown, "taxi-assets run, or taxi-assets rollback to one of them")
    return f"version {champion.number} everywhere" if champion else "nothing yet"
