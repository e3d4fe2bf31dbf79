"""A home left to run once a day, with requests and nothing new: what grows, how long a run takes.

Days are lived one after another by a clock that `faketime` moves on, each with a run of the command
line and a day of captured requests; what they add is carried on to a year, up to what is kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks import _machine
from databricks_steps import schemas
from databricks_steps.settings import Settings
from databricks_steps.trips import demo
from taxi_assets import retention

MONTHS = ("2022-01", "2022-02", "2022-03")
ROWS = 3_000
PORT = 8560
MONTH, YEAR = 31, 365
WEEK = retention.WEEK.days
SETTLED = 6  # the day from which on growth is even: what a day has left is gone by then
EDGE = 5  # days at the beginning and at the end
RUNS_A_DAY = 2  # of Dagster, for one of the command line
MOST_SIZE, MOST_SECONDS = 2.0, 1.5
CAPTURED, ANSWERED, DAGSTER = "captured requests", "endpoint_payloads", "dagster"


def main(arguments: Sequence[str]) -> int:
    """Print sizes and seconds of the days lived, and what they make of a month and a year."""
    parser = argparse.ArgumentParser("python -m benchmarks year", description=__doc__)
    parser.add_argument("--days", type=int, default=16)
    parser.add_argument("--requests", type=int, default=100_000, help="a day")
    parser.add_argument("--written", type=int, default=100_000, help="of them, in fact")
    parser.add_argument("--flushes", type=int, default=288, help="a day")
    given = parser.parse_args(arguments)
    if shutil.which("faketime") is None:
        raise SystemExit("this benchmark needs a clock that can be moved: apt-get install faketime")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "source").mkdir()
        for month in MONTHS:
            file = root / "source" / f"green_tripdata_{month}.parquet"
            pq.write_table(demo.demo_trips(month, ROWS), file)
        year = _Year(root, given.written, given.flushes)
        scale = given.requests / given.written
        sizes = []
        for day in range(given.days):
            year.live(day, again=day < EDGE or day >= given.days - EDGE)
            sizes.append(_scaled(year.sizes(), scale))
            print(year.line(day, sizes[-1]), flush=True)
    print(_machine.described())
    return _told(sizes, year.runs, year.reruns, scale)


def _told(
    sizes: Sequence[Mapping[str, float]],
    runs: Sequence[float],
    reruns: Sequence[float],
    scale: float,
) -> int:
    days, settled, last = len(sizes), sizes[SETTLED - 1], sizes[-1]
    ends = {
        DAGSTER: Settings().keep_runs / RUNS_A_DAY,
        CAPTURED: Settings().keep_requests + WEEK,
        ANSWERED: retention.JUDGED_DAYS + WEEK,
    }
    print(f"\nMiB; captured requests and their rows times {scale:g}, as so many are asked")
    heads = ("day 1", f"day {days}", "a day", "month", "at most")
    print(f"{'entry':<22}" + "".join(f"{head:>9}" for head in heads))
    month, year = dict[str, float](), dict[str, float]()
    for name in sorted(last, key=lambda name: -last[name]):
        first, now = sizes[0].get(name, 0.0), last[name]
        daily = (now - settled.get(name, 0.0)) / (days - SETTLED)
        month[name] = now + daily * (MONTH - days)
        year[name] = now + daily * (ends.get(name, YEAR) - days)
        figures = (first, now, daily, month[name], year[name])
        print(f"{name:<22}" + "".join(f"{figure:>9.1f}" for figure in figures))
    ratio = sum(year.values()) / sum(month.values())
    print(
        f"home: {sum(month.values()):.0f} MiB after a month, {sum(year.values()):.0f} at most in a "
        f"year: {ratio:.2f} times; at most {MOST_SIZE:g} wanted"
    )
    begin, end = (statistics.median(part) for part in (reruns[:EDGE], reruns[-EDGE:]))
    print(f"rerun without news: {begin:.1f} s on the first {EDGE} days, {end:.1f} s on the last")
    print(f"{end / begin:.2f} times; at most {MOST_SECONDS:g} wanted")
    begin_run, end_run = (statistics.median(part) for part in (runs[1 : EDGE + 1], runs[-EDGE:]))
    print(f"the day's run with its requests: {begin_run:.1f} s, {end_run:.1f} s")
    return int(ratio > MOST_SIZE or end / begin > MOST_SECONDS)


def _scaled(sizes: Mapping[str, float], scale: float) -> dict[str, float]:
    grown = (CAPTURED, ANSWERED)
    return {name: size * (scale if name in grown else 1.0) for name, size in sizes.items()}


class _Year:
    """A home, and the days that were lived with it."""

    def __init__(self, root: Path, requests: int, flushes: int) -> None:
        self.settings = Settings(home=root / "home", port=PORT)
        self.runs: list[float] = []  # seconds of each day's run
        self.reruns: list[float] = []  # of one more, on the first days and the last
        self._source, self._requests, self._flushes = root / "source", requests, flushes

    def live(self, day: int, *, again: bool) -> None:
        """A run, a run without news, and the day's requests; then the clock of files moves, too."""
        ahead, began = timedelta(days=day), time.time() - 1
        run = ("-m", "taxi_assets.cli", "run", "--source", str(self._source))
        self.runs.append(self._call(ahead, *run))
        if again:
            self.reruns.append(self._call(ahead, *run))
        self._call(ahead, "-m", "taxi_assets.cli", "stop")
        self._call(ahead, "-c", _REQUESTS, str(self._requests), str(self._flushes), str(day))
        for path in self.settings.home.rglob("*"):
            if path.is_file() and began <= (at := path.stat().st_mtime) <= time.time():
                os.utime(path, (at + ahead.total_seconds(),) * 2)

    def _call(self, ahead: timedelta, *words: str) -> float:
        environment = {
            **os.environ,
            "TAXI_HOME": str(self.settings.home),
            "TAXI_PORT": str(PORT),
            "NO_FAKE_STAT": "1",
        }
        # The first day, with its training, is today.
        clock = ["faketime", "-f", f"+{ahead.total_seconds():.0f}s"] if ahead else []
        log, started = self.settings.home.with_name("said"), time.monotonic()
        with log.open("w") as out:  # no pipe: who stays would hold it
            code = subprocess.call(
                [*clock, sys.executable, *words], env=environment, stdout=out, stderr=out
            )
        said = log.read_text()
        if code:
            raise SystemExit(f"{' '.join(words[:4])} failed:\n{said}")
        if "what is old was not removed" in said:
            print(said)
        return time.monotonic() - started

    def sizes(self) -> dict[str, float]:
        """Entry of the home, or captured table → MiB."""
        found: dict[str, float] = {}
        named = {
            self.settings.table_path(self.settings.payload_table): CAPTURED,
            self.settings.table_path(schemas.ENDPOINT_PAYLOADS.name): ANSWERED,
        }
        for path in self.settings.home.rglob("*"):
            if path.is_file():
                own = next((name for root, name in named.items() if root in path.parents), "")
                entry = own or path.relative_to(self.settings.home).parts[0]
                found[entry] = found.get(entry, 0.0) + path.stat().st_size / 2**20
        return found

    def line(self, day: int, sizes: Mapping[str, float]) -> str:
        parts = " ".join(f"{n} {sizes.get(n, 0.0):.1f}" for n in (DAGSTER, CAPTURED, ANSWERED))
        whole = sum(sizes.values())
        return f"day {day + 1}: run {self.runs[-1]:.1f} s; {whole:.1f} MiB: {parts}"


_REQUESTS = """
import sys
from datetime import datetime, timezone
from benchmarks import _payloads
from databricks_steps.settings import Settings
from taxi_assets.emulator.runtime import capture
settings, (requests, flushes, seed) = Settings.from_environment(), map(int, sys.argv[1:])
capture.COMPACTED_EVERY = flushes // 6  # as often a day as with a flush a minute
at = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
_payloads.day(settings, at, requests, flushes, "entity", seed)
"""
