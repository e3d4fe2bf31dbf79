"""The endpoint of a whole run: as offline, a skew named, and the token nowhere but in its file."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from conftest_run import Home

from databricks_steps import schemas
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.training import registry
from taxi_assets.deployment import endpoint
from taxi_assets.deployment.online_store import workspace_client
from taxi_assets.deployment.verification import parity
from taxi_assets.emulator import auth

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow  # looks at a whole run


FirstRun = tuple[Home, subprocess.CompletedProcess[str]]


def test_a_shifted_feature_is_caught_and_named(first_run: FirstRun, spark: SparkSession) -> None:
    home, _ = first_run
    platform = EmbeddedPlatform(home.settings)
    client = workspace_client(home.settings.host, auth.token(home.settings.token_file))
    model = registry.folder(home.settings, "1")
    before = parity(client, platform, model, 2_000)
    assert (before.trips, before.skewed) == (2_000, ())
    print(f"{before.trips:,} trips, largest difference {before.largest} dollars")
    assert before.largest <= 0.01

    shifts = {
        "pickup_fare_per_mile_7d": ("pickup_features", 1.0),
        "dropoff_trip_count_24h": ("dropoff_features", 7),
    }
    for feature, (table, shift) in shifts.items():
        with shifted(home, f"{home.settings.table(table)}_online", feature, shift):
            found = parity(client, platform, model, 2_000)
        (skewed,) = found.skewed
        print(skewed)
        assert re.match(
            rf"{feature} differs for [0-9,]+ of 2,000 trips: .* served, .* offline", skewed
        )
        assert "'pickup_location_id': " in skewed
    assert parity(client, platform, model, 2_000) == before


def test_a_request_comes_from_a_file_from_standard_input_or_is_a_ride_of_now(
    first_run: FirstRun,
) -> None:
    home, _ = first_run
    text = endpoint.SINGLE_FILE.read_text(encoding="utf-8")
    by_file = home.invoke("query", str(endpoint.SINGLE_FILE))
    assert by_file.stdout == home.invoke("query", "-", stdin=text).stdout
    (ride,) = json.loads(home.invoke("query", "--now", "74", "42", "1.8").stdout)["predictions"]
    assert 0 < ride["low"] < ride["fare"] < ride["high"] < 40
    for wrong in ((), ("-", "--now", "74", "42", "1.8"), ("--now", "74", "42", "-1")):
        refused = home.invoke("query", *wrong, stdin=text)
        assert (refused.returncode, refused.stdout) == (1, ""), wrong
        assert refused.stderr.count("\n") == 1
    for broken in ("", "{", '{"dataframe_records": [NaN]}'):
        assert "error: A request must be a JSON" in home.invoke("query", "-", stdin=broken).stderr


@contextmanager
def shifted(home: Home, table: str, feature: str, shift: float) -> Iterator[None]:
    """The online table with one feature changed behind the back of everybody."""

    def change(by: float) -> None:
        with closing(sqlite3.connect(home.path / "online.db", timeout=10)) as connection:
            connection.execute(f'UPDATE "{table}" SET "{feature}" = "{feature}" + {by}')
            connection.commit()
        time.sleep(0.5)  # the server looks for changes a hundred times a second

    change(shift)
    try:
        yield
    finally:
        change(-shift)


def test_the_token_is_in_its_own_file_and_nowhere_else(first_run: FirstRun) -> None:
    """Logs, tables, MLflow, Dagster's events: every byte of the home, and the captured requests."""
    import pyarrow as pa
    from deltalake import DeltaTable

    home, done = first_run
    token = (home.path / "token").read_text().strip()
    client = workspace_client(home.settings.host, token)
    client.api_client.do("POST", "/api/2.0/taxi/payloads/flush")
    files = [file for file in home.path.rglob("*") if file.is_file()]
    assert {"mlflow.db", "workspace.db", "workspace.log", "online.db"} <= {f.name for f in files}
    assert [file for file in files if "dagster" in file.parts and file.suffix == ".db"]
    holding = [file for file in files if token.encode() in file.read_bytes()]
    assert holding == [home.path / "token"]
    made = [name for name in schemas.TABLES if home.settings.table_path(name).is_dir()]
    for name in (*made, home.settings.payload_table):
        table = DeltaTable(str(home.settings.table_path(name))).to_pyarrow_table()
        for column, kind in zip(table.column_names, table.schema.types, strict=True):
            if pa.types.is_string(kind):  # pages of a file may be compressed
                texts = table.column(column).unique().to_pylist()
                assert not any(token in text for text in texts if text), (name, column)
    assert token not in done.stdout + done.stderr
