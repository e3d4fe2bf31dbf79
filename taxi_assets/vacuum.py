"""`taxi-assets vacuum`: data files that no kept version of a table needs are removed."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from databricks_steps import schemas
from databricks_steps.errors import SettingsError
from databricks_steps.platforms.embedded import delta_files
from databricks_steps.settings import Settings
from databricks_steps.training import reproduction
from taxi_assets import backup, dagster_instance, home_inventory

DAYS = 30
LEAST_DAYS = 1  # who reads now must find what he began with


@dataclass(frozen=True)
class Freed:
    """What a table has lost, or would lose, and the versions it keeps for `reproduce`."""

    table: str
    files: int
    size: int
    kept: tuple[int, ...]


def vacuum(settings: Settings, days: int, dry_run: bool) -> list[Freed]:
    """Remove files that were replaced more than `days` ago, of every table.

    Versions that a model has learned from stay whole, however old: `reproduce` reads them.

    Raises:
        SettingsError: a run or a backup is under way, or `days` is less than 1.
        ModelError: what a registered version has learned from cannot be read.
        TableError: a table's log is damaged.
    """
    if days < LEAST_DAYS:
        raise SettingsError(
            f"vacuum keeps at least {LEAST_DAYS} day", f"--keep {days}", "Keep more days"
        )
    if not settings.warehouse.exists():
        return []
    with dagster_instance.only_run(settings), backup.files_may_go(settings):
        return tables(settings, days, reproduction.table_versions(settings), dry_run)


def tables(
    settings: Settings, days: int, needed: Mapping[str, Set[int]], dry_run: bool = False
) -> list[Freed]:
    """The same, where nobody runs or takes a backup; `needed` is table → versions that stay.

    Of captured requests and their rows a day is enough: nobody asks for an old version.
    """
    found = home_inventory.tables(settings).items()
    own = schemas.TABLES.keys() - {schemas.ENDPOINT_PAYLOADS.name}
    kept = {name: days if name in own else min(days, LEAST_DAYS) for name, _ in found}
    return [_table(n, root, kept[n], needed.get(n, set()), dry_run) for n, root in found]


def _table(name: str, root: Path, days: int, needed: Set[int], dry_run: bool) -> Freed:
    table = delta_files.opened(name, root)
    kept = sorted(number for number in needed if number <= table.version())

    def vacuumed(dry_run: bool) -> list[str]:
        found: list[str] = table.vacuum(
            days * 24, dry_run, enforce_retention_duration=False, keep_versions=kept or None
        )
        return found

    # The log goes on naming files that went long ago.
    there = [path for path in (root / unquote(f) for f in vacuumed(dry_run=True)) if path.exists()]
    size = sum(path.stat().st_size for path in there)
    if there and not dry_run:
        vacuumed(dry_run=False)
    return Freed(name, len(there), size, tuple(kept))
