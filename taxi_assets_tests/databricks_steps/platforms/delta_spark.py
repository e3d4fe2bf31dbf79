"""Spark with Delta's own jars, and a pytest process of its own for the tests that want it.

Jars cannot be added to the session that the suite shares: it is running. They come from Maven
Central, once, into a cache of the user's; where they cannot be had, those tests skip and say so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from databricks_steps.platforms.embedded import session as embedded
from databricks_steps.settings import REPOSITORY, Settings, inherited

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

VARIABLE = "TAXI_CONTRACT"
FILES = ("test_tables_contract.py", "test_unity_tables.py", "test_databricks_steps.py")
IDENTITY = "run-as@example.com"  # of that process's session, as a job's run has one
RUNNING = os.environ.get(VARIABLE) == "databricks"  # this is that process
GROUP, ARTIFACT, VERSION = "io.delta", "delta-spark_4.1_2.13", "4.4.0"  # for Spark 4.1
DELTA = f"{GROUP}:{ARTIFACT}:{VERSION}"
OF_SPARK = ("org.apache.*:*", "com.fasterxml.jackson.core:*", "org.roaringbitmap:*", "org.slf4j:*")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taxi-assets" / "ivy"
JAR = CACHE / "jars" / f"{GROUP}_{ARTIFACT}-{VERSION}.jar"  # there once all of them are


def session(home: Path) -> SparkSession:
    """Spark as near to a cluster's as can be: Delta's jars, its catalog, few and small tasks."""
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    settings = Settings(home=home, spark="local[2]", driver_memory="2g")
    conf = embedded.spark_conf(settings) | {
        "spark.jars.packages": DELTA,
        "spark.jars.ivy": str(CACHE),
        "spark.jars.excludes": ",".join(OF_SPARK),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.catalogImplementation": "in-memory",
        # Hundreds of queries over a handful of rows: less to plan, compile and schedule.
        "spark.default.parallelism": "1",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "1",
        "spark.databricks.delta.snapshotPartitions": "1",
    }
    builder = SparkSession.builder
    for key, value in conf.items():
        builder = builder.config(key, value)
    cached = JAR.exists()
    try:
        return builder.getOrCreate()
    except PySparkException as error:
        if cached:
            raise
        pytest.skip(f"{DELTA} could not be fetched from Maven Central: {error}")


def verdicts(folder: Path) -> dict[str, ElementTree.Element]:
    """Test → what the process said of it, as JUnit's XML."""
    report = folder / "report.xml"
    files = [str(Path(__file__).with_name(name)) for name in FILES]
    command = [sys.executable, "-m", "pytest", *files, "-q", "--tb=short", "--no-header"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}"]
    command += ["-o", "python_functions=test_* on_databricks_*"]
    ran = subprocess.run(
        command,
        check=False,
        env={**inherited(), VARIABLE: "databricks", "SPARK_USER": IDENTITY},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return {str(case.get("name")): case for case in ElementTree.parse(report).iter("testcase")}


def repeat(verdict: ElementTree.Element) -> None:
    """Skip or fail as the test did there."""
    for said in verdict:
        if said.tag == "skipped":
            pytest.skip(str(said.get("message")))
        if said.tag in ("failure", "error"):
            pytest.fail(said.text or str(said.get("message")), pytrace=False)
