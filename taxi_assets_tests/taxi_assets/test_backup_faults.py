"""Backup and restore of homes that are odd, damaged or at work; without a run, in seconds."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from databricks_steps.settings import Settings
from taxi_assets import backup, dagster_instance


@pytest.fixture
def used(settings: Settings) -> Settings:
    """A home with Dagster's databases and no table yet."""
    settings.warehouse.mkdir(parents=True)
    with dagster_instance.instance(settings):
        pass
    return settings


def packed(settings: Settings, folder: Path) -> Path:
    file = folder / "home.tar.gz"
    backup.backup(settings, file)
    return file


def test_cursors_are_packed_before_the_events_that_they_name(
    used: Settings, tmp_path: Path
) -> None:
    with tarfile.open(packed(used, tmp_path)) as archive:
        names = archive.getnames()
    cursors, events = "dagster/schedules/schedules.db", "dagster/history/runs/index.db"
    assert names.index(cursors) < names.index(events)
