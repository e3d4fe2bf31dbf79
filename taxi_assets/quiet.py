"""What libraries say on their own, kept off the terminal; warnings and errors stay."""

from __future__ import annotations

import logging
import warnings

import dagster as dg

from databricks_steps.settings import Settings
from taxi_assets.resources.targets import export, quiet_variables


def settle(settings: Settings) -> None:
    """Call once, before the libraries are imported."""
    export(quiet_variables(settings))
    expect_warnings()
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)


def expect_warnings() -> None:
    """Keep back what libraries warn of wherever assets are loaded or run, in Dagster's processes,
    too; told often enough, it would hide the warning that matters."""
    # Inputs are never null: the lookups fill every feature with its default.
    warnings.filterwarnings("ignore", message=".*Inferred schema contains integer column.*")
    # dagster-mlflow and backfill policies are beta; the lock pins what was tested.
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
