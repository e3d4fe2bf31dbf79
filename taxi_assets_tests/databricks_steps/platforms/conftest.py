"""Tables of both platforms for the same tests, and what another process said of Unity Catalog's.

The suite runs the contract on the embedded tables. On Unity Catalog's it runs in one pytest process
of its own, with Delta's jars (see `delta_spark.py`): `verdicts` holds what that process said.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from databricks_steps.interfaces import Tables
from databricks_steps.platforms.databricks.tables import UnityTables
from databricks_steps.platforms.embedded.tables import DeltaTables
from databricks_steps.settings import Settings
from taxi_assets_tests.databricks_steps.platforms import delta_spark
from taxi_assets_tests.databricks_steps.platforms.feature_tables import TABLE, Row

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from pyspark.sql import DataFrame, SparkSession


if delta_spark.RUNNING:

    @pytest.fixture(scope="session")
    def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
        """The session with Delta's jars, in the process that has them."""
        os.environ["TZ"] = "UTC"
        time.tzset()
        started = delta_spark.session(tmp_path_factory.mktemp("delta"))
        yield started
        started.stop()

else:

    @pytest.fixture
    def running(engine: SparkSession) -> SparkSession:
        """The session of either engine."""
        return engine


@pytest.fixture
def tables(running: SparkSession, tmp_path: Path) -> Iterator[Tables]:
    if not delta_spark.RUNNING:
        # A blank and an umlaut in the path: homes have them.
        yield DeltaTables(Settings(home=tmp_path / "my hömé"), lambda: running)
        return
    schema = f"contract_{tmp_path.name}".lower()
    running.sql(f"CREATE SCHEMA spark_catalog.`{schema}`")
    settings = Settings(home=tmp_path, catalog="spark_catalog", schema=schema)
    yield UnityTables(settings, lambda: running)
    running.sql(f"DROP SCHEMA spark_catalog.`{schema}` CASCADE")


@pytest.fixture
def frame(running: SparkSession) -> Any:
    def make(rows: Sequence[Row]) -> DataFrame:
        return running.createDataFrame(list(rows), TABLE.spark())

    return make


@pytest.fixture(scope="session")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Element]:
    """Test → what the process with Delta's jars said of it."""
    return delta_spark.verdicts(tmp_path_factory.mktemp("verdicts"))
