"""Months that land in a volume, by the Files API of a real workspace; and what the jobs hold."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from world import MONTHLY, OTHERS, World

from databricks_steps.errors import SettingsError
from databricks_steps.settings import DATABRICKS, Settings
from databricks_steps.trips import sources
from databricks_steps.trips.files import TripFile
from taxi_assets.emulator import process
from taxi_assets.resources.targets import target
from taxi_assets.resources.workspace import Workspace
from taxi_assets.sensors import landing as landing_module
from taxi_assets.sensors.landing import Sight, Volume, landing, look, memory, whole_months
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import free_port

# The emulator lists folders in a volume, and not the volume itself.
VOLUME = "/Volumes/p03/e2e_demo_simon/landing/trips"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    settings = replace(Settings(), home=tmp_path / "served", port=free_port())
    yield Volume(Workspace(settings).client, VOLUME)
    process.stop(settings)


def test_a_volume_is_looked_at_as_a_folder_is(volume: Volume, world: World) -> None:
    assert look(volume, {}) == []
    whole = world.land("2022-03").read_bytes()
    path = f"{VOLUME}/green_tripdata_2022-03.parquet"
    kept: dict[str, dict[str, object]] = {}

    def seen() -> Sight:
        nonlocal kept
        sights = look(volume, kept)
        kept = memory(sights)
        return sights[0]

    volume.client.files.upload(path, io.BytesIO(whole[:900]), overwrite=True)
    assert seen().waits == "green_tripdata_2022-03.parquet is still arriving (900 bytes)"
    assert "truncated" in seen().waits
    volume.client.files.upload(path, io.BytesIO(whole), overwrite=True)
    assert "still arriving" in seen().waits
    sight = seen()
    assert sight.file is not None
    assert (sight.waits, sight.file.problem, len(sight.file.hash)) == ("", "", 16)
    assert list(whole_months([sight])) == ["2022-03"]
    volume.client.files.upload(f"{VOLUME}/notes.txt", io.BytesIO(b"x"))
    again = seen()
    assert (again.looks, again.file is not None) == (3, True)


class Slow:
    """A folder of a disk on which one entry is asked for in vain, for longer than a tick has."""

    source = "slow"

    def __init__(self, whole: Path) -> None:
        self.whole = whole

    def entries(self) -> list[Sight]:
        return [Sight("a_2022-01.parquet", 1, 1), Sight("b_2022-03.parquet", 1, 1)]

    def inspect(self, sight: Sight) -> TripFile:
        if sight.name.startswith("a"):
            time.sleep(0.02)
            raise TimeoutError
        return replace(sources.judged(self.whole), name=sight.name)


def test_an_entry_that_cannot_be_fetched_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setattr(landing_module, "SECONDS", 0.01)
    folder, kept, sights = Slow(world.land("2022-03")), {}, []
    for _ in range(5):
        sights = look(folder, kept)
        kept = memory(sights)
    assert list(whole_months(sights)) == ["2022-03"]
    assert [sight.file.cause for sight in sights if sight.file] == ["unreadable", ""]


def test_on_databricks_months_land_in_the_targets_volume(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    staging = target("staging", {"TAXI_HOME": str(tmp_path)})
    assert staging.settings.platform == DATABRICKS
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="needs a workspace and credentials"):
        landing(staging)
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("DATABRICKS_TOKEN", "x")
    assert landing(staging).source == "/Volumes/p03/e2e_demo_simon_staging/landing"


def test_the_jobs_are_two_halves_of_the_pipeline(world: World) -> None:
    def held(job: str) -> set[str]:
        keys = world.definitions.resolve_job_def(job).asset_layer.executable_asset_keys
        return {key.to_user_string() for key in keys}

    monthly, others = ({*chain(*steps)} for steps in (MONTHLY, OTHERS))
    assert held("fare_pipeline") == monthly | others
    assert held("new_month") == monthly
    judged = {"batch_predictions", "drift_report", "live_performance"}
    assert held("retrain") == others | judged
