"""The platform that the settings name; neither is imported before it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from databricks_steps.interfaces import Platform
from databricks_steps.settings import DATABRICKS, Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def platform(
    settings: Settings,
    start: Callable[[], SparkSession] | None = None,
    tracked_run: Callable[[], AbstractContextManager[str]] | None = None,
) -> Platform:
    """The platform; `start` and `tracked_run` replace its own session and MLflow run."""
    if settings.platform == DATABRICKS:
        from databricks_steps.platforms.databricks.platform import DatabricksPlatform

        return DatabricksPlatform(settings, start, tracked_run)
    from databricks_steps.platforms.embedded.platform import EmbeddedPlatform

    return EmbeddedPlatform(settings, start, tracked_run)
