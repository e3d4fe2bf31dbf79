"""One lookup of both keys in process, against two bare SQLite reads and Feast's online store."""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import _environments, _machine, _served
from databricks_steps.inference.feature_spec import FeatureSpec
from databricks_steps.settings import Settings
from taxi_assets.emulator.runtime import online_tables
from taxi_assets.emulator.runtime.lookups import Lookup
from taxi_assets.emulator.runtime.online_tables import OnlineTables

LIMIT_US = 10.0
FEAST_RATIO = 25.0


def main(arguments: Sequence[str]) -> int:
    """Print the medians in microseconds and the ratios with what is wanted of them."""
    parser = argparse.ArgumentParser("python -m benchmarks lookup", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--home", type=Path, help="of a demo run; default: one is made")
    parser.add_argument("--feast", help="a Python that has Feast; default: a new one gets it")
    given = parser.parse_args(arguments)
    with _served.endpoint(given=given.home) as settings:
        tables = OnlineTables(online_tables.database(settings))
        found = [Lookup(wanted) for wanted in FeatureSpec.current(settings).lookups]
        tables.refresh()
        rows = [tables.snapshot[each.source].by_location for each in found]
        keys = [next(iter(each)) for each in rows]
        at = [each[key][0] for each, key in zip(rows, keys, strict=True)]

        def both() -> list[object]:
            now = tables.snapshot
            return [
                found[0].one(now, keys[0], at[0]),
                found[1].one(now, keys[1], at[1]),
            ]

        ours = _timed(both, given.seconds)
        bare = _timed(_bare(settings, tables, found, keys), given.seconds)
        feast = _feast(tables, found, given.seconds, given.feast)
    print(
        f"\n{_machine.described()}; both keys, {sum(len(f.features) for f in found)} features, p50"
    )
    print(f"  ours                       {ours:8.2f} us")
    print(f"  two bare SQLite reads      {bare:8.2f} us")
    print(f"  Feast, SQLite online store {feast:8.2f} us")
    print(f"ours: {ours:.2f} us, wanted under {LIMIT_US:g}")
    print(f"Feast's time to ours: {feast / ours:.1f}, wanted at least {FEAST_RATIO:g}")
    print(f"ours to two bare reads: {ours / bare:.2f}")
    return 0


def _timed(ask: Callable[[], object], seconds: float) -> float:
    ask()
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter_ns()
        ask()
        times.append(time.perf_counter_ns() - started)
    return statistics.median(times) / 1000


def _bare(
    settings: Settings, tables: OnlineTables, found: Sequence[Lookup], keys: Sequence[int]
) -> Callable[[], object]:
    names = _names(tables)
    connection = sqlite3.connect(online_tables.database(settings))
    asked = [
        (f'SELECT * FROM "{names[each.source]}" WHERE location_id = ?', (key,))
        for each, key in zip(found, keys, strict=True)
    ]
    return lambda: [connection.execute(sql, key).fetchall() for sql, key in asked]


def _names(tables: OnlineTables) -> dict[str, str]:
    """Feature table → its online table."""
    return {table.source: table.name for table in tables.published().values()}


def _feast(
    tables: OnlineTables, found: Sequence[Lookup], seconds: float, python: str | None
) -> float:
    names = _names(tables)
    rows = {
        each.source.rsplit(".", 1)[1]: {
            "key": each.key,
            "features": each.features,
            "rows": {
                location: [row[name] or 0.0 for name in each.features]
                for location, row in tables.rows(names[each.source]).items()
            },
        }
        for each in found
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        file.write_text(json.dumps(rows))
        script = Path(__file__).parent / "_feast_lookup.py"
        python = python or _environments.python_with("feast", Path(folder))
        command = [python, str(script), str(file), str(seconds)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["p50_us"])
