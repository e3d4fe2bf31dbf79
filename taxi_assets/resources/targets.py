"""Targets: where steps run and which workspace serves; the one reader of the environment here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from databricks_steps.errors import SettingsError
from databricks_steps.settings import Settings

LOCAL = "local"
TARGETS = (LOCAL,)


@dataclass(frozen=True)
class Target:
    """One target: its name and the settings its steps run with."""

    name: str
    settings: Settings


def target(name: str | None = None, environment: Mapping[str, str] | None = None) -> Target:
    """The named target, or the one of `TAXI_TARGET`, or `local`.

    Raises:
        SettingsError: there is no target of that name.
    """
    env = os.environ if environment is None else environment
    chosen = name or env.get("TAXI_TARGET") or LOCAL
    if chosen not in TARGETS:
        raise SettingsError(
            "TAXI_TARGET must be a target", repr(chosen), f"Use one of: {', '.join(TARGETS)}"
        )
    return Target(chosen, Settings.from_environment(env))


def export(values: Mapping[str, str]) -> None:
    """Set variables for this process and those it starts."""
    os.environ.update(values)


def inherited() -> dict[str, str]:
    """This process's environment, for a process it starts."""
    return dict(os.environ)
