"""Every step on a Spark Connect session, as serverless compute gives: no SparkContext, no JVM.

Connect keeps frames and takes settings when asked; serverless does neither. So Spark's own client
is made to refuse both while the steps run, and the sources are searched for what only a classic
session has.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import REPOSITORY, Gate, Settings, inherited
from databricks_steps.spark_compat import kept, shared
from databricks_steps.trips import demo

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

STEPS = """
import sys
from pathlib import Path
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql.connect.conf import RuntimeConf
from pyspark.sql.connect.dataframe import DataFrame
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Gate, Settings
from databricks_steps.steps import STEPS

conf = {
    "spark.sql.session.timeZone": "UTC",
    "spark.ui.enabled": "false",
    # Many queries over few rows: less to plan, compile and schedule.
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
builder = SparkSession.builder.remote("local[2]")
for name, value in conf.items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
refused = set()

def refusing(what):
    def refuse(*given, **named):
        refused.add(what)
        raise AnalysisException(f"[NOT_SUPPORTED_WITH_SERVERLESS] {what} is not supported")
    return refuse

DataFrame.cache = DataFrame.persist = refusing("PERSIST TABLE")
RuntimeConf.set = refusing("SET")
gate = Gate(resamples=50)
settings = Settings(home=Path(sys.argv[1]), source=sys.argv[2], gate=gate)
platform = EmbeddedPlatform(settings, lambda: spark)
for name, step in STEPS.items():
    for outcome in step.run(platform, ["2022-01"], False):
        print(name, outcome.name, outcome.rows, [v.check for v in outcome.verdicts if not v.passed])
print(sorted(refused))
"""
# What a classic session alone has. `spark_compat.py` is where steps ask for it and do without.
CLASSIC = re.compile(r"\.cache\(\)|\.persist\(|\.sparkContext|\._jvm|\._jsparkSession|\.rdd\b")
ALLOWED = {"spark_compat.py", "platforms/embedded/session.py"}
# Settings are for platforms to make: they know where these are refused.
SETS = re.compile(r"\.conf\.set\(")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("connect")
    pq.write_table(demo.demo_trips("2022-01", 3_000), folder / "demo_tripdata_2022-01.parquet")
    joined = demo.demo_trips("2022-01", 3_000).slice(0, 300)
    joined = joined.append_column("airport_fee", pa.array([1.25] * 150 + [None] * 150))
    joined = joined.append_column("Airport_fee", pa.array([None] * 150 + [1.75] * 150))
    pq.write_table(joined, folder / "demo_joined_2022-01.parquet")
    return folder


@pytest.mark.long
def test_every_step_runs_on_connect_to_the_rows_of_sail(
    spark: SparkSession, source: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(tmp_path / "connect"), str(source)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=inherited() | {"PYSPARK_PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    from databricks_steps.steps import STEPS as ALL

    gate = Gate(resamples=50)
    settings = Settings(home=tmp_path / "sail", source=str(source), gate=gate)
    sail = EmbeddedPlatform(settings, lambda: spark)
    connect = EmbeddedPlatform(Settings(home=tmp_path / "connect"), lambda: spark)
    expected = [
        f"{name} {outcome.name} {outcome.rows} {failed(outcome.verdicts)}"
        for name, step in ALL.items()
        for outcome in step.run(sail, ["2022-01"], False)
    ]
    # Steps ask for kept frames and do without; settings they do not even ask for.
    assert done.stdout.splitlines() == [*expected, "['PERSIST TABLE']"]
    for name in ("trips", "pickup_features", "training_set"):
        assert rows(connect, name) == rows(sail, name), name
    assert fares(connect) == fares(sail)


def failed(verdicts: Any) -> list[str]:
    return [verdict.check for verdict in verdicts if not verdict.passed]


def rows(platform: EmbeddedPlatform, name: str) -> list[str]:
    frame = platform.tables.read(name)
    kept_columns = [c for c in frame.columns if c not in ("computed_at", "scored_at")]
    return sorted(str(row) for row in frame.select(*kept_columns).collect())


def fares(platform: EmbeddedPlatform) -> list[tuple[str, float]]:
    found = platform.tables.read("batch_predictions").select("trip_id", "predicted_fare")
    return sorted((row["trip_id"], round(row["predicted_fare"], 4)) for row in found.collect())


def using(pattern: re.Pattern[str]) -> set[str]:
    """The modules of the steps whose text has the pattern."""
    folder = REPOSITORY / "databricks_steps"
    modules = {str(path.relative_to(folder)): path for path in folder.rglob("*.py")}
    return {name for name, path in modules.items() if pattern.search(path.read_text())}


def test_no_step_asks_for_what_a_classic_session_alone_has() -> None:
    assert using(CLASSIC) <= ALLOWED
    assert all(name.startswith("platforms/") for name in using(SETS))


class Refusing:
    """A frame, or session, that refuses as serverless does."""

    def persist(self) -> DataFrame:
        from pyspark.errors import AnalysisException

        raise AnalysisException("[NOT_SUPPORTED_WITH_SERVERLESS] PERSIST TABLE is not supported")

    @property
    def sparkContext(self) -> Iterator[None]:
        from pyspark.errors import PySparkAttributeError

        raise PySparkAttributeError("[JVM_ATTRIBUTE_NOT_SUPPORTED] sparkContext")


def test_what_a_session_refuses_is_done_without() -> None:
    refusing: Any = Refusing()
    with kept(refusing) as frame:
        assert frame is refusing
    assert shared(refusing, b"graph")() == b"graph"


@pytest.mark.long  # a JVM
def test_what_a_session_gives_is_used_and_let_go(jvm: SparkSession) -> None:
    with kept(jvm.range(3)) as frame:
        assert frame.is_cached
    assert not frame.is_cached
    assert shared(jvm, b"graph")() == b"graph"


def test_an_error_inside_is_not_taken_for_a_refusal(spark: SparkSession) -> None:
    from pyspark.errors import AnalysisException

    with pytest.raises(AnalysisException, match="of the caller"), kept(spark.range(1)):
        raise AnalysisException("of the caller")
