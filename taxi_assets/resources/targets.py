"""Targets: where steps run and which workspace serves; the one reader of the environment here."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from databricks_steps import network
from databricks_steps.errors import SettingsError
from databricks_steps.settings import (
    DATABRICKS,
    EMBEDDED,
    EMULATED,
    LANDING,
    Settings,
    as_on_a_cluster,
)
from taxi_assets.resources.clusters import Cluster

LOCAL, LOOPBACK = "local", "loopback"
DEV, STAGING, PROD = "dev", "staging", "prod"
DAGSTER_HOME = "DAGSTER_HOME"  # set wherever Dagster's records are to stay
LAUNCHED = "TAXI_LAUNCHED"  # set where a launched step runs: it launches nothing itself
POSTGRES = "TAXI_DAGSTER_POSTGRES"  # a URL: its password stays in the environment
UI = "TAXI_UI"  # address of Dagster's UI, for the links of alerts
ALERT_URLS = {  # variable → which severities go to its apprise URLs
    "TAXI_ALERT_URLS": ("warn", "error"),
    "TAXI_ALERT_URLS_WARN": ("warn",),
    "TAXI_ALERT_URLS_ERROR": ("error",),
}

# What each Databricks target calls its own; a variable of the environment comes first.
NAMES: dict[str, dict[str, str]] = {
    name: {
        "TAXI_CATALOG": "p03",
        "TAXI_SCHEMA": f"e2e_demo_simon{suffix}",
        "TAXI_MODEL": f"{name}_mlops_stacks_gcp_fs_model",
        "TAXI_ENDPOINT": f"mlops-taxi-fare-endpoint{suffix.replace('_', '-')}",
        "TAXI_ONLINE_STORE": f"taxi-online-store{suffix.replace('_', '-')}",
        "TAXI_EXPERIMENT": f"/Shared/taxi-fare-{name}",
        "TAXI_REQUIRE_APPROVAL": str(name == PROD).lower(),
        "TAXI_SCALE_TO_ZERO": str(name != PROD).lower(),
    }
    for name, suffix in ((DEV, ""), (STAGING, "_staging"), (PROD, "_prod"))
}
TARGETS = (LOCAL, LOOPBACK, *NAMES)
DEVELOPER = "TAXI_DEVELOPER"  # whose names those of `dev` are, where several share a workspace
_DEVELOPER = re.compile(r"[a-z][a-z0-9]{0,15}")


@dataclass(frozen=True)
class Target:
    """One target: its name, the settings its steps run with, and where they are launched."""

    name: str
    settings: Settings
    cluster: Cluster | None = None
    launched: bool = False

    def remote_environment(self) -> dict[str, str]:
        """The variables a launched step needs to see the same names, tables and settings."""
        from databricks_steps.training import lineage

        settings = self.settings
        if settings.platform == DATABRICKS:  # this machine's folders mean nothing there
            settings = replace(settings, home=settings.volume_home)
        own = {"TAXI_TARGET": self.name, LAUNCHED: "1"}
        if not settings.git_commit:  # the code travels without its repository
            own["TAXI_GIT_COMMIT"] = lineage.commit()
        return settings.to_environment() | quiet_variables(settings) | own


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
    launched = LAUNCHED in env
    if chosen in NAMES:
        given = {key: value for key, value in env.items() if value}
        always = {"TAXI_PLATFORM": DATABRICKS}
        settings = Settings.from_environment({**names(chosen, env), **given, **always})
        if not launched:  # Dagster's records of one target are not another's
            settings = replace(settings, home=settings.home / chosen)
        if chosen != DEV and "TAXI_SOURCE" not in given:  # no model of demo trips for others
            delivered = f"/Volumes/{settings.catalog}/{settings.schema}/{LANDING}"
            settings = replace(settings, source=delivered)
        if env.get(EMULATED):  # Unity Catalog is the Delta tables of that home
            settings = replace(settings, platform=EMBEDDED, home=Path(env[EMULATED]))
            settings = replace(settings, port=_port_at_work(settings))
        tags = {"project": "taxi-assets", "target": chosen}
        return Target(chosen, settings, Cluster.from_environment(env, tags=tags), launched)
    settings = Settings.from_environment(env)
    if not env.get("TAXI_PORT"):
        settings = replace(settings, port=_port_at_work(settings))
    if chosen == LOOPBACK:
        settings = as_on_a_cluster(settings, env)
    near: dict[str, Any] = {"poll_seconds": 0.5, "grace_seconds": 3}
    cluster = Cluster.from_environment(env, **near) if chosen == LOOPBACK else None
    return Target(chosen, settings, cluster, launched)


def names(chosen: str, env: Mapping[str, str]) -> dict[str, str]:
    """The target's names; those of `dev` end with the developer, where one is told.

    The model has its schema's, so that its own stays.

    Raises:
        SettingsError: the developer's name cannot be part of them.
    """
    found, developer = NAMES[chosen], env.get(DEVELOPER) if chosen == DEV else ""
    if not developer:
        return found
    if not _DEVELOPER.fullmatch(developer):
        raise SettingsError(
            f"{DEVELOPER} must be at most 16 small letters and digits",
            repr(developer),
            "Shorten it",
        )
    own = {"TAXI_SCHEMA": f"{found['TAXI_SCHEMA']}_{developer}"}
    for variable in ("TAXI_ENDPOINT", "TAXI_ONLINE_STORE", "TAXI_EXPERIMENT"):
        own[variable] = f"{found[variable]}-{developer}"
    return found | own


def _port_at_work(settings: Settings) -> int:
    """The port of the home's emulator, wherever it was started; the settings' own without one."""
    try:
        return int(json.loads(settings.workspace_file.read_text(encoding="utf-8"))["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return settings.port


@dataclass(frozen=True)
class Address:
    """Where alerts of these severities go: an apprise URL, whose secrets are never shown."""

    url: str = field(repr=False)
    name: str
    severities: tuple[str, ...]


@dataclass(frozen=True)
class Watch:
    """How sensors watch, and whom they tell. `seconds` between ticks: None is each sensor's own.

    `started`: whether they watch unasked. On the throw-away instance of plain `dagster dev` they
    would run again what the home's own instance has long run.
    """

    addresses: tuple[Address, ...] = ()
    seconds: int | None = None
    ui: str = "http://127.0.0.1:3000"
    started: bool = True


def watch(environment: Mapping[str, str] | None = None) -> Watch:
    """What the environment says of sensors and alerts.

    Raises:
        SettingsError: TAXI_SENSOR_SECONDS is no number of seconds.
    """
    env = os.environ if environment is None else environment
    addresses = tuple(
        Address(url, f"{variable} #{number} ({url.partition('://')[0][:20]})", severities)
        for variable, severities in ALERT_URLS.items()
        for number, url in enumerate(env.get(variable, "").split(), 1)
    )
    text = env.get("TAXI_SENSOR_SECONDS", "")
    if text and not (text.isascii() and text.isdigit() and 1 <= int(text) <= 86_400):
        raise SettingsError(
            "TAXI_SENSOR_SECONDS must be a whole number from 1 to 86400", repr(text), "Unset it"
        )
    seconds, ui = int(text) if text else None, (env.get(UI) or Watch.ui).rstrip("/")
    return Watch(addresses, seconds, ui, started=bool(env.get(DAGSTER_HOME)))


def quiet_variables(settings: Settings) -> dict[str, str]:
    """What keeps libraries from talking, to people and to their makers."""
    return {
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MPLCONFIGDIR": str(settings.home / "matplotlib"),
        **network.SILENT,
    }


def export(values: Mapping[str, str]) -> None:
    """Set variables for this process and those it starts."""
    os.environ.update(values)


def quieten_libraries(settings: Settings) -> None:
    """Keep what libraries say on their own off the terminal; call it before they are imported.

    Warnings and errors stay.
    """
    export(quiet_variables(settings))
    ignore_expected_warnings()
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)


def ignore_expected_warnings() -> None:
    """Wherever assets are loaded or run; told often enough, these would hide what matters."""
    # Inputs are never null: the lookups fill every feature with its default.
    warnings.filterwarnings("ignore", message=".*Inferred schema contains integer column.*")
    # dagster-mlflow and backfill policies are beta, parts of Pipes a preview; the lock pins what
    # was tested.
    warnings.filterwarnings("ignore", message=".*is currently in (beta|preview), and may have.*")
