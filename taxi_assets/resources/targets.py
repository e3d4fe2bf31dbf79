"""Targets: where steps run and which workspace serves; the one reader of the environment here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from databricks_steps.errors import SettingsError
from databricks_steps.settings import Settings
from taxi_assets.partitions import RANGE_TAGS

LOCAL, LOOPBACK = "local", "loopback"
TARGETS = (LOCAL, LOOPBACK)
LAUNCHED = "TAXI_LAUNCHED"  # set where a launched step runs: it launches nothing itself
RUNTIME = "17.3.x-cpu-ml-scala2.13"


@dataclass(frozen=True)
class Cluster:
    """The job cluster of a launched step, and how long the launcher waits for it."""

    spark_version: str = RUNTIME
    node_type_id: str = "n2-highmem-4"
    workers: int = 1
    spark_conf: Mapping[str, str] = field(default_factory=dict)
    libraries: tuple[str, ...] = ("dagster==1.13.27", "databricks-feature-engineering>=0.14")
    tags: Mapping[str, str] = field(default_factory=dict)
    poll_seconds: float = 5.0
    timeout_seconds: int = 6 * 3600

    def run_config(
        self, step: str, run: str, tags: Mapping[str, str], variables: Mapping[str, str]
    ) -> dict[str, Any]:
        """What is submitted for a step: its cluster, cost tags, libraries and limit of time."""
        months = ":".join(sorted({tags[tag] for tag in RANGE_TAGS if tag in tags}))
        costs = {**self.tags, "asset": step, "run": run, "month": months}
        return {
            "run_name": f"{step} {months}".strip(),
            "cluster": {
                "new": {
                    "size": {"num_workers": self.workers},
                    "spark_version": self.spark_version,
                    "nodes": {"node_types": {"node_type_id": self.node_type_id}},
                    "spark_conf": dict(self.spark_conf),
                    "spark_env_vars": dict(variables),  # known before Spark starts
                    "custom_tags": costs,
                    "data_security_mode": "SINGLE_USER",
                }
            },
            "libraries": [{"pypi": {"package": package}} for package in self.libraries],
            "install_default_libraries": False,  # they would break the cluster's own SDK
            "timeout_seconds": self.timeout_seconds,
        }


@dataclass(frozen=True)
class Target:
    """One target: its name, the settings its steps run with, and where they are launched."""

    name: str
    settings: Settings
    cluster: Cluster | None = None
    launched: bool = False

    def remote_environment(self) -> dict[str, str]:
        """The variables a launched step needs to see the same names, tables and settings."""
        own = {"TAXI_TARGET": self.name, LAUNCHED: "1"}
        return self.settings.to_environment() | quiet_variables(self.settings) | own


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
    cluster = Cluster(poll_seconds=0.5) if chosen == LOOPBACK else None
    return Target(chosen, Settings.from_environment(env), cluster, LAUNCHED in env)


def quiet_variables(settings: Settings) -> dict[str, str]:
    """What keeps libraries from talking, to people and to their makers."""
    return {
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MPLCONFIGDIR": str(settings.home / "matplotlib"),
    }


def export(values: Mapping[str, str]) -> None:
    """Set variables for this process and those it starts."""
    os.environ.update(values)
