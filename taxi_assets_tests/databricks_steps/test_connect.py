"""Every step on a Spark Connect session, as serverless compute gives: no SparkContext, no JVM.

Connect keeps frames when asked; serverless does not. So a session that refuses is put in its
place where refusal matters, and the sources are searched for what only a classic session has.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from databricks_steps.kept import kept, setting, shared
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import REPOSITORY, Settings
from databricks_steps.trips import demo

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

STEPS = """
import sys
from pathlib import Path
from pyspark.sql import SparkSession
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.steps import STEPS

spark = SparkSession.builder.remote("local[2]").getOrCreate()
spark.conf.set("spark.sql.session.timeZone", "UTC")
spark.conf.set("spark.sql.shuffle.partitions", "2")
settings = Settings(home=Path(sys.argv[1]), source=sys.argv[2])
platform = EmbeddedPlatform(settings, lambda: spark)
for name, step in STEPS.items():
    for outcome in step.run(platform, ["2022-01"], False):
        print(name, outcome.name, outcome.rows, [v.check for v in outcome.verdicts if not v.passed])
"""
# What a classic session alone has. `kept.py` is where steps ask for it and do without.
CLASSIC = re.compile(r"\.cache\(\)|\.persist\(|\.sparkContext|\._jvm|\._jsparkSession|\.rdd\b")
ALLOWED = {"kept.py", "platforms/embedded/task.py", "platforms/embedded/session.py"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("connect")
    pq.write_table(demo.demo_trips("2022-01", 3_000), folder / "demo_tripdata_2022-01.parquet")
    return folder


def test_every_step_runs_on_connect_to_the_rows_of_a_classic_session(
    spark: SparkSession, source: Path, tmp_path: Path
) -> None:
    pytest.importorskip("grpc_status", reason="Spark Connect needs grpcio-status")
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(tmp_path / "connect"), str(source)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    from databricks_steps.steps import STEPS as ALL

    settings = Settings(home=tmp_path / "classic", source=str(source))
    classic = EmbeddedPlatform(settings, lambda: spark)
    connect = EmbeddedPlatform(Settings(home=tmp_path / "connect"), lambda: spark)
    expected = [
        f"{name} {outcome.name} {outcome.rows} {failed(outcome.verdicts)}"
        for name, step in ALL.items()
        for outcome in step.run(classic, ["2022-01"], False)
    ]
    assert done.stdout.splitlines() == expected
    for name in ("trips", "pickup_features", "training_set"):
        assert rows(connect, name) == rows(classic, name), name
    assert fares(connect) == fares(classic)


def failed(verdicts: Any) -> list[str]:
    return [verdict.check for verdict in verdicts if not verdict.passed]


def rows(platform: EmbeddedPlatform, name: str) -> list[str]:
    frame = platform.tables.read(name)
    kept_columns = [c for c in frame.columns if c not in ("computed_at", "scored_at")]
    return sorted(str(row) for row in frame.select(*kept_columns).collect())


def fares(platform: EmbeddedPlatform) -> list[tuple[str, float]]:
    found = platform.tables.read("batch_predictions").select("trip_id", "predicted_fare")
    return sorted((row["trip_id"], round(row["predicted_fare"], 4)) for row in found.collect())


def test_no_step_asks_for_what_a_classic_session_alone_has() -> None:
    found = {
        str(path.relative_to(REPOSITORY / "databricks_steps"))
        for path in (REPOSITORY / "databricks_steps").rglob("*.py")
        if CLASSIC.search(path.read_text())
    }
    assert found - ALLOWED == set()


class Refusing:
    """A frame, or session, that refuses as serverless does."""

    def __init__(self, frame: DataFrame | None = None) -> None:
        self.frame = frame
        self.conf = self

    def persist(self) -> DataFrame:
        from pyspark.errors import AnalysisException

        raise AnalysisException("[NOT_SUPPORTED_WITH_SERVERLESS] PERSIST TABLE is not supported")

    def get(self, name: str) -> str:
        from pyspark.errors import AnalysisException

        raise AnalysisException(f"[CONFIG_NOT_AVAILABLE] Configuration {name} is not available")

    @property
    def sparkContext(self) -> Iterator[None]:
        from pyspark.errors import PySparkAttributeError

        raise PySparkAttributeError("[JVM_ATTRIBUTE_NOT_SUPPORTED] sparkContext")


def test_what_a_session_refuses_is_done_without(spark: SparkSession) -> None:
    refusing: Any = Refusing()
    with kept(refusing) as frame:
        assert frame is refusing
    with setting(refusing, "spark.sql.caseSensitive", "true") as taken:
        assert taken is False
    assert shared(refusing, b"graph")() == b"graph"


def test_what_a_session_takes_is_put_back(spark: SparkSession) -> None:
    with kept(spark.range(3)) as frame:
        assert frame.is_cached
    assert not frame.is_cached
    with setting(spark, "spark.sql.caseSensitive", "true") as taken:
        assert taken
        assert spark.conf.get("spark.sql.caseSensitive") == "true"
    assert spark.conf.get("spark.sql.caseSensitive") == "false"
    assert shared(spark, b"graph")() == b"graph"


def test_an_error_inside_is_not_taken_for_a_refusal(spark: SparkSession) -> None:
    from pyspark.errors import AnalysisException

    with pytest.raises(AnalysisException, match="of the caller"), kept(spark.range(1)):
        raise AnalysisException("of the caller")
    with (
        pytest.raises(AnalysisException, match="of the caller"),
        setting(spark, "spark.sql.caseSensitive", "true"),
    ):
        raise AnalysisException("of the caller")
    assert spark.conf.get("spark.sql.caseSensitive") == "false"
