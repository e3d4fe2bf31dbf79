"""Worlds of a test's own, copied from one that was made for all: databases take seconds to make."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import World

from databricks_steps.settings import Settings


@pytest.fixture(scope="session")
def made_homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An empty home, and one that has a champion."""
    homes = {}
    for name in ("empty", "served"):
        world = World(Settings(home=tmp_path_factory.mktemp(name) / "home"))
        if name == "served":
            world.champion(1)
        world.instance.dispose()
        homes[name] = world.settings.home
    return homes


@pytest.fixture
def world(settings: Settings, made_homes: dict[str, Path]) -> Iterator[World]:
    shutil.copytree(made_homes["empty"], settings.home)
    made = World(settings)
    yield made
    made.instance.dispose()


@pytest.fixture
def served(settings: Settings, made_homes: dict[str, Path]) -> Iterator[World]:
    """A world that has a champion, version 1."""
    shutil.copytree(made_homes["served"], settings.home)
    made = World(settings)
    yield made
    made.instance.dispose()
