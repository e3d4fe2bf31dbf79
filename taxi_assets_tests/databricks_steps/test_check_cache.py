"""A figure is measured once for a fingerprint; a step in which nothing changed asks no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from databricks_steps import fingerprint, steps
from databricks_steps.check_cache import FOLDER, CheckCache
from databricks_steps.features import leakage_checks
from databricks_steps.interfaces import Outcome
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.trips import recognition, validation_rules
from databricks_steps.trips.demo import demo_trips

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow  # a small run each
JANUARY, FEBRUARY = MONTHS = ("2022-01", "2022-02")
DATA = ("raw_trips", "trips", "pickup_features", "dropoff_features", "training_set")


class Meter:
    """Measures by counting how often it was asked."""

    def __init__(self, **figures: Any) -> None:
        self.figures = figures
        self.asked: list[list[str]] = []

    def __call__(self, months: Sequence[str]) -> dict[str, dict[str, Any]]:
        self.asked.append(list(months))
        return {month: {"month": month, **self.figures} for month in months}


def test_only_months_with_another_fingerprint_are_measured(settings: Settings) -> None:
    meter, cache = Meter(days=("a", "b")), CheckCache(settings, "trips")
    first = cache.measured("days", {JANUARY: 1, FEBRUARY: 2}, meter)
    assert first == {m: {"month": m, "days": ["a", "b"]} for m in MONTHS}  # as JSON has it
    again = CheckCache(settings, "trips").measured("days", {JANUARY: 1, FEBRUARY: 3}, meter)
    assert again == first
    assert meter.asked == [[JANUARY, FEBRUARY], [FEBRUARY]]
    assert cache.measured("days", {}, meter) == {}
    # Neither another check, nor another asset, nor force takes what was kept.
    cache.measured("rules", {JANUARY: 1}, meter)
    CheckCache(settings, "raw_trips").measured("days", {JANUARY: 1}, meter)
    CheckCache(settings, "trips", force=True).measured("days", {JANUARY: 1}, meter)
    assert meter.asked[2:] == [[JANUARY]] * 3


def test_what_failed_is_measured_again(settings: Settings) -> None:
    cache = CheckCache(settings, "trips")
    bad, good = Meter(nulls=1), Meter(nulls=0)

    def sound(figures: dict[str, Any]) -> bool:
        return not figures["nulls"]

    for _ in range(2):
        assert cache.measured("nulls", {JANUARY: 1}, bad, sound)[JANUARY]["nulls"] == 1
    assert cache.measured("nulls", {JANUARY: 1}, good, sound)[JANUARY]["nulls"] == 0
    assert cache.measured("nulls", {JANUARY: 1}, bad, sound)[JANUARY]["nulls"] == 0
    assert len(bad.asked) == 2


SHAPES = (
    *(b"", b"{", b"[]", b"\xff", b"[" * 100_000, None),
    *(b'{"days": 5}', b'{"days": {"2022-01": 5}}', b'{"days": {"2022-01": {}}}'),
    *(b'{"days": {"2022-01": {"fingerprint": 1}}}',),
    *(b'{"days": {"2022-01": {"fingerprint": 1, "figures": []}}}',),
)


@pytest.mark.parametrize("content", SHAPES)
def test_a_cache_that_cannot_be_read_is_none(settings: Settings, content: bytes | None) -> None:
    meter, cache = Meter(), CheckCache(settings, "trips")
    cache.measured("days", {JANUARY: 1}, meter)
    file = settings.home / FOLDER / "trips.json"
    file.unlink() if content is None else file.write_bytes(content)
    cache.measured("days", {JANUARY: 1}, meter)
    cache.measured("days", {JANUARY: 1}, meter)
    assert len(meter.asked) == 2


def test_where_nothing_can_be_kept_it_is_measured(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, where the folder of a home would be")
    meter, cache = Meter(), CheckCache(Settings(home=tmp_path / "home"), "trips")
    for _ in range(2):
        assert cache.measured("days", {JANUARY: 1}, meter) == {JANUARY: {"month": JANUARY}}
    assert len(meter.asked) == 2


class Laptop:
    """Steps on a home, with the suite's engine or with one whose start is a failure."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.source = folder / "source"
        self.source.mkdir()
        self.settings = Settings(home=folder / "home", source=str(self.source))
        self.spark = spark
        self.started = 0

    def land(self, month: str, seed: int = 1) -> None:
        pq.write_table(
            demo_trips(month, 1_500, seed), self.source / f"green_tripdata_{month}.parquet"
        )

    def run(self, *names: str, **changes: Any) -> dict[str, Outcome]:
        """Each step's outcomes; `started` counts the steps that asked for the engine."""
        made: dict[str, Outcome] = {}
        for name in names or DATA:
            platform = EmbeddedPlatform(replace(self.settings, **changes), self._start)
            made |= {o.name: o for o in steps.STEPS[name].run(platform, None, False)}
        return made

    def _start(self) -> SparkSession:
        self.started += 1
        return self.spark

    def without_engine(self, **changes: Any) -> dict[str, Outcome]:
        self.started = 0
        made = self.run(**changes)
        assert self.started == 0
        return made


@pytest.fixture
def laptop(spark: SparkSession, tmp_path: Path) -> Laptop:
    made = Laptop(spark, tmp_path)
    for month in MONTHS:
        made.land(month)
    first = made.run()
    assert all(verdict.passed for outcome in first.values() for verdict in outcome.verdicts)
    return made


def skipped(outcome: Outcome) -> Any:
    return outcome.figures.get("skipped_months", outcome.figures.get("skipped"))


def test_where_nothing_changed_no_step_asks_for_the_engine_and_all_verdicts_stand(
    laptop: Laptop,
) -> None:
    versions = {
        name: EmbeddedPlatform(laptop.settings, laptop._start).tables.version(name) for name in DATA
    }
    first, second = laptop.without_engine(), laptop.without_engine()
    assert {name: skipped(o) for name, o in first.items()} == {
        **{n: list(MONTHS) for n in (*DATA[:4], "quarantined_trips")},
        "training_set": True,
        "arrivals": True,
    }
    for name, outcome in first.items():
        assert outcome.verdicts == second[name].verdicts
        assert outcome.rows == second[name].rows
    tables = EmbeddedPlatform(laptop.settings, laptop._start).tables
    assert {name: tables.version(name) for name in DATA} == versions
    # What is kept is what is measured.
    measured = laptop.run(*DATA[:4])
    for file in (laptop.settings.home / FOLDER).iterdir():
        file.unlink()
    anew = laptop.run(*DATA[:4])
    assert laptop.started > 0
    assert {n: o.verdicts for n, o in anew.items()} == {n: o.verdicts for n, o in measured.items()}


def test_a_changed_file_makes_exactly_what_depends_on_it(laptop: Laptop) -> None:
    laptop.land(FEBRUARY, seed=2)
    changed = laptop.run()
    assert laptop.started > 0
    for name in (*DATA[:4], "quarantined_trips"):
        assert skipped(changed[name]) == [JANUARY], name
    assert skipped(changed["training_set"]) is False
    laptop.without_engine()
    # Touched, with the same bytes: read again, and nothing follows.
    laptop.land(FEBRUARY, seed=2)
    laptop.without_engine()


def test_a_changed_rule_makes_exactly_what_depends_on_it(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = fingerprint.code

    def edited(changed: ModuleType) -> Any:
        return lambda *modules: code(*modules) + ("edited" if changed in modules else "")

    monkeypatch.setattr(fingerprint, "code", edited(validation_rules))
    made = laptop.run()
    assert skipped(made["raw_trips"]) == list(MONTHS)
    assert skipped(made["trips"]) == []
    laptop.without_engine()
    # Of a check alone: judged again, and no row is written.
    monkeypatch.setattr(
        fingerprint,
        "code",
        lambda *m: code(*m) + "edited" * (validation_rules in m) + "edited" * (leakage_checks in m),
    )
    laptop.started = 0
    judged = laptop.run()
    assert laptop.started == 2  # each of the features
    assert skipped(judged["pickup_features"]) == list(MONTHS)
    laptop.without_engine()


def test_a_changed_setting_makes_exactly_what_depends_on_it(laptop: Laptop) -> None:
    made = laptop.run(holdout_share=0.3)
    assert {n: skipped(made[n]) for n in DATA[:4]} == {n: list(MONTHS) for n in DATA[:4]}
    assert skipped(made["training_set"]) is False
    laptop.without_engine(holdout_share=0.3)


def test_an_unchanged_source_file_is_not_opened(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    recognized = recognition.recognized
    monkeypatch.setattr(
        recognition, "recognized", lambda path: (opened.append(path.name), recognized(path))[1]
    )
    laptop.run("raw_trips")
    assert opened == []
    laptop.land(FEBRUARY, seed=3)
    laptop.run("raw_trips")
    assert opened == [f"green_tripdata_{FEBRUARY}.parquet"]
    (laptop.source / f"green_tripdata_{JANUARY}.parquet").touch()
    laptop.run("raw_trips")
    assert opened[1:] == [f"green_tripdata_{JANUARY}.parquet"]
    # One that is refused is opened once, too, and told each time.
    (laptop.source / "green_tripdata_2022-03.parquet").write_bytes(b"PAR1 cut off PAR1")
    for _ in range(2):
        refused = laptop.run("raw_trips")["raw_trips"].figures["refused_files"]
        assert set(refused) == {"green_tripdata_2022-03.parquet"}
    assert opened[2:] == ["green_tripdata_2022-03.parquet"]


def test_a_check_that_failed_is_judged_again(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = leakage_checks.compared

    def leaking(*given: Any) -> Any:
        found = compared(*given)
        for month in found.values():
            month["wrong"].append("trip 1 looked up 5, but trips ended by then give 4")
        return found

    (laptop.settings.home / FOLDER / "pickup_features.json").unlink()
    monkeypatch.setattr(leakage_checks, "compared", leaking)
    for _ in range(2):
        _, honest = laptop.run("pickup_features")["pickup_features"].verdicts
        assert (honest.passed, honest.figures["values_that_differ"]) == (False, 2)
    monkeypatch.setattr(leakage_checks, "compared", compared)
    assert all(v.passed for v in laptop.run("pickup_features")["pickup_features"].verdicts)
    laptop.without_engine()
