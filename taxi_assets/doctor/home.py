"""Checks of TAXI_HOME: tables, registry, online tables, endpoint, records of runs."""

from __future__ import annotations

from collections.abc import Mapping

from databricks_steps import schemas
from databricks_steps.inference import feature_spec
from databricks_steps.platforms.embedded.delta_schema import delta_schema
from databricks_steps.settings import Settings
from databricks_steps.training import registry
from taxi_assets import backup, home_inventory, status
from taxi_assets.deployment.online_store import TABLES as PUBLISHED
from taxi_assets.deployment.online_store import online_table_name
from taxi_assets.doctor.findings import Check, FaultError
from taxi_assets.emulator.runtime import online_tables

NOTHING = "nothing yet: ./run_mlops.sh makes it"


def checks(settings: Settings) -> Mapping[str, Check]:
    return {
        "privacy": lambda: privacy(settings),
        "tables": lambda: tables(settings),
        "registry": lambda: champion(settings),
        "online tables": lambda: online(settings),
        "endpoint": lambda: endpoint(settings),
        "problems": lambda: problems(settings),
    }


def privacy(settings: Settings) -> str:
    """No other user of the machine can read the home."""
    if not settings.home.exists():
        return NOTHING
    mode = settings.home.stat().st_mode & 0o777
    if mode & 0o077:
        raise FaultError(
            f"other users can read {settings.home}", f"chmod 700 {settings.home}", "warn"
        )
    return "readable by this user alone"


def tables(settings: Settings) -> str:
    """Every table opens, has the types of `schemas.py`, and its files are there, whole."""
    from deltalake import DeltaTable

    own = {name: settings.table_path(name) for name in schemas.TABLES}
    found = {n: r for n, r in own.items() if r.exists()} | home_inventory.tables(settings)
    for name, root in found.items():
        try:
            held = {field.name: field.type for field in DeltaTable(str(root)).schema().fields}
        except Exception as error:  # of delta-rs: its kinds differ by what is broken
            first = str(error).splitlines()[0][:200]
            raise FaultError(f"{name} does not open: {first}", _again(name)) from error
        wanted = delta_schema(schemas.TABLES[name]).fields if name in schemas.TABLES else ()
        if other := [f.name for f in wanted if held.get(f.name, f.type) != f.type]:
            raise FaultError(
                f"{name} has {', '.join(other)} of another type",
                f"It is of another version of this project: remove {root}, then run again",
            )
        files = list(backup.data_files(root))
        if gone := [path for path, _ in files if not path.exists()]:
            raise FaultError(f"{name} lacks {len(gone)} files: {gone[0]}", _again(name))
        if cut := [path for path, size in files if path.stat().st_size != size]:
            raise FaultError(f"{name} has {len(cut)} files of another size: {cut[0]}", _again(name))
    return f"{len(found)} open, every file is there, whole" if found else NOTHING


def _again(table: str) -> str:
    return f"taxi-assets restore a backup, or remove the table {table} and run again"


def champion(settings: Settings) -> str:
    if not (settings.home / "mlflow.db").exists():
        return NOTHING
    found = registry.version(settings, registry.CHAMPION)
    if found is None:
        raise FaultError("no champion", "Run once without --skip-training", "warn")
    graph = registry.folder(settings, found.number) / feature_spec.FOLDER / feature_spec.ONNX_FILE
    if not graph.exists():
        raise FaultError(
            f"version {found.number} has no graph: {graph}", "Train again, or restore a backup"
        )
    return f"version {found.number} is champion"


def online(settings: Settings) -> str:
    """The online tables hold the newest version of their feature tables."""
    file = online_tables.database(settings)
    if not file.exists():
        return NOTHING
    held = online_tables.OnlineTables(file).published()
    log = status.logs(settings)
    for table in PUBLISHED:
        name = online_table_name(settings, table)
        newest = log.version(table.name)
        if name not in held:
            raise FaultError(f"{name} is not published", f"Materialize {table.name}_online")
        if newest is not None and held[name].version < newest:
            raise FaultError(
                f"{name} shows version {held[name].version} of {newest}",
                f"Materialize {table.name}_online, then serving_endpoint",
                "warn",
            )
    return f"{len(PUBLISHED)} published, as new as their tables"


def endpoint(settings: Settings) -> str:
    if not (settings.home / "workspace.db").exists():
        return NOTHING
    state = status.endpoint_state(settings)
    if state is None:
        raise FaultError("not running", "taxi-assets serve", "warn")
    if state["state"] != "READY":
        raise FaultError(f"{state['name']} is {state['state']}", "Materialize serving_endpoint")
    found = registry.version(settings, registry.CHAMPION)
    if found is not None and str(state["version"]) != found.number:
        raise FaultError(
            f"serves version {state['version']}, champion is {found.number}", "taxi-assets deploy"
        )
    return f"{state['name']} is READY, version {state['version']}"


def problems(settings: Settings) -> str:
    """What checks and alerts say is open."""
    told = status.watched(settings)
    failing, open_problems = [*told["failing_checks"]], told["problems"]
    if failing or open_problems:
        shown = "; ".join([*failing, *open_problems][:3])
        raise FaultError(
            f"{len(failing)} checks fail, {len(open_problems)} problems are open: {shown}",
            "taxi-assets alerts",
            "warn",
        )
    return "no check fails, no problem is open"
