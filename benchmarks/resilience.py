"""Runs and commands that are killed and run again: to the same rows, with nothing left behind.

Runs are killed at random moments, and runs and commands at places: within publish, the move of the
alias, the ledger, the endpoint's swap, rollback, backup, restore and vacuum.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import _aftermath, _invariants, _machine
from databricks_steps.settings import Settings
from databricks_steps.trips import demo

MONTHS = ("2022-01", "2022-02", "2022-03")
BEGUN = "2022-01:2022-02"  # the months of the home in which places are aimed at
ROWS = 3_000  # trips of each month: a run is mostly its stages' own time
PORT = 8550
LIMIT_SECONDS = 900  # of one run
ENDED = "the run had ended"
AGE_DAYS = 40  # how much older a home is made for vacuum
WORK = "work"  # folder of the home in which places are aimed at: it is the same for all


@dataclass(frozen=True)
class Moment:
    """When to kill: so many seconds after a run has told so many stages, `second` of the clean run.

    Counted from the last stage told, a moment lies in the same stage however busy the machine is.
    """

    second: float
    stages: int
    after: float
    server: bool  # whether the workspace's own process is killed as well


@dataclass(frozen=True)
class Aim:
    """A place to kill at: before or after a call of a function, by the process that makes it.

    `command` is what is killed there, None a run of one month more.
    """

    name: str
    at: str
    when: str
    command: tuple[str, ...] | None = None
    call: int = 1
    fresh: bool = False  # in an empty home

    def environment(self, mark: Path) -> dict[str, str]:
        folder = Path(__file__).parent / "_kill_points"
        return {
            "PYTHONPATH": str(folder),
            "TAXI_KILL_AT": self.at,
            "TAXI_KILL_WHEN": self.when,
            "TAXI_KILL_CALL": str(self.call),
            "TAXI_KILL_MARK": str(mark),
        }


_PUBLISH, _ENDPOINTS = "taxi_assets.emulator.runtime.publish", "taxi_assets.emulator.runtime"
_TRAINING, _ROLLBACK = "databricks_steps.training", "taxi_assets.deployment.rollback"
BACKUP, RESTORE = ("backup", "{root}/backup.tar.gz"), ("restore", "{root}/backup.tar.gz")
BACK, VACUUM = ("rollback",), ("vacuum", "--keep", "30")
AIMS = (
    Aim("MLflow's database half made", "mlflow.store.db.utils:_upgrade_db", "before", fresh=True),
    Aim("publish, rows written and not committed", f"{_PUBLISH}:_register", "before"),
    Aim("publish, committed and not answered", f"{_PUBLISH}:publish", "after"),
    Aim("alias, just before its move", f"{_TRAINING}.promotion:require_fit", "after"),
    Aim("alias moved, ledger not", f"{_TRAINING}.promotion:settle", "before"),
    Aim("ledger written, alias `previous` not", f"{_TRAINING}.deployment_log:record", "after"),
    Aim("endpoint loaded, not recorded", f"{_ENDPOINTS}.endpoints:Endpoints._finish", "before"),
    Aim("rollback, endpoint moved alone", f"{_ROLLBACK}:ensure_endpoint", "after", BACK),
    Aim("rollback, ledger not written", f"{_ROLLBACK}:settle", "before", BACK),
    Aim("backup, some tables in", "taxi_assets.backup:_Writer._table", "before", BACKUP, 4),
    Aim("backup, all but its name", "taxi_assets.backup:_Writer.write", "after", BACKUP),
    Aim("restore, not in its place", "taxi_assets.backup:_point_to", "after", RESTORE),
    Aim("vacuum, some tables done", "taxi_assets.vacuum:_table", "before", VACUUM, 6),
)


@dataclass
class Result:
    """What became of one kill."""

    at: str
    stage: str
    server: str
    rerun: float = 0.0
    differences: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        server = f"workspace {self.server}" if self.server else ""
        moment = f"{self.at:<10}{self.stage:<40}{server:<22}"
        told = "; ".join(self.differences) or "equal"
        left = f"  LEFT: {'; '.join(self.leftovers)}" if self.leftovers else ""
        return f"{moment}rerun {self.rerun:5.1f} s  {told}{left}"


def main(arguments: Sequence[str]) -> int:
    """Clean runs, then the kills, each in a home of its own; 1 unless every one ends equal."""
    parser = argparse.ArgumentParser("python -m benchmarks resilience", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="in all")
    parser.add_argument("--seed", type=int, default=20220131)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--aims", type=int, default=len(AIMS), help="how many of them at places")
    given = parser.parse_args(arguments)
    print(_machine.described())
    results = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = _source(root / "source")
        aims, random_kills = AIMS[: given.aims], given.kills - min(given.aims, len(AIMS))
        if aims:
            results += _aimed(root, given.port, source, aims)
        if random_kills > 0:
            results += _at_random(root, given.port, source, random_kills, given.seed)
    equal = sum(not result.differences for result in results)
    tidy = sum(not result.leftovers for result in results)
    print(f"\nequal, and sound as other libraries read it: {equal} of {len(results)}")
    print(f"nothing left behind: {tidy} of {len(results)}")
    return int(equal < len(results) or tidy < len(results))


def _at_random(root: Path, port: int, source: Path, kills: int, seed: int) -> list[Result]:
    """A run of an empty home, killed at random moments."""
    clean = _Run(root / "clean", port, "run", "--source", str(source))
    code = clean.wait()
    clean.stop()
    if code:
        raise SystemExit(f"the clean run failed:\n{clean.said}")
    expected = _aftermath.contents(clean.settings)
    seconds, told = clean.seconds, clean.told
    print(f"a clean run: {seconds:.1f} s, {len(told)} stages; seed {seed}\n", flush=True)
    usual = _usual(clean)
    results = []
    for number, moment in enumerate(moments(kills, seconds, told, seed), 1):
        result = _killed(root / f"killed-{number}", port, source, moment, expected)
        results.append(_told(result, usual))
    reruns = sorted(result.rerun for result in results)
    ratio = reruns[len(reruns) // 2] / seconds
    print(f"a rerun takes {ratio:.2f} of a clean run (median), at most {reruns[-1] / seconds:.2f}")
    return results


def _told(result: Result, usual: Sequence[str]) -> Result:
    result.leftovers = [left for left in result.leftovers if left not in usual]
    print(result.line, flush=True)
    return result


def _usual(clean: _Run) -> list[str]:
    """What a run that was not killed leaves as well."""
    if broken := _invariants.broken(clean.settings):
        raise SystemExit(f"the clean run's home is not sound: {broken}")
    usual = _leftovers(clean)
    for leftover in usual:
        print(f"left by the clean run as well: {leftover}")
    return usual


def _leftovers(run: _Run) -> list[str]:
    left = _aftermath.leftovers(run.settings, run.temporary)
    return left + _invariants.remains(run.settings)


def _aimed(root: Path, port: int, source: Path, aims: Sequence[Aim]) -> Iterator[Result]:
    """Kills at places: in runs of a month more than the home has, and in commands on it."""
    work, arguments = root / WORK, ("run", "--source", str(source))
    for months, kept in ((BEGUN, "begun"), (f"{MONTHS[0]}:{MONTHS[-1]}", "whole")):
        run = _Run(work, port, *arguments, "--months", months)
        code = run.wait()
        run.stop()
        if code:
            raise SystemExit(f"the run of {months} failed:\n{run.said}")
        shutil.copytree(work, root / kept)
    expected = _aftermath.contents(run.settings)
    if expected.version != "2":
        raise SystemExit(f"the second run made no champion: it is version {expected.version}")
    print(f"a run of one month more: {run.seconds:.1f} s\n", flush=True)
    usual = _usual(run)
    command = _Run(work, port, "backup", str(root / "backup.tar.gz"))
    if command.wait():
        raise SystemExit(f"the backup failed:\n{command.said}")
    for aim in aims:
        shutil.rmtree(work)
        if not aim.fresh:
            shutil.copytree(root / ("begun" if aim.command is None else "whole"), work)
        words = (*arguments, "--months", f"{MONTHS[0]}:{MONTHS[-1]}")
        result = _at(aim, root, port, words, expected)
        yield _told(result, usual)


def _at(
    aim: Aim, root: Path, port: int, run: Sequence[str], expected: _aftermath.Contents
) -> Result:
    """Kill at the place, do the same again, and look at the home."""
    work, words = root / WORK, [word.format(root=root) for word in aim.command or run]
    settings = Settings(home=work / "home", port=port)
    _prepare(aim, root, settings)
    mark = root / "mark"
    mark.unlink(missing_ok=True)
    struck = _Run(work, port, *words, **aim.environment(mark)).strike(mark)
    again = _Run(work, port, *words)
    code = again.wait()
    result = Result("", aim.name, "", again.seconds)
    if not struck:
        result.differences = ["the place was never reached"]
    if code:
        result.differences.append(f"it failed again: {again.said.strip()[-500:]}")
    again.stop()
    if result.differences:
        return result
    if aim.command == BACKUP:  # it is judged by what it can restore
        shutil.rmtree(settings.home)
        restored = _Run(work, port, "restore", words[-1])
        if restored.wait():
            result.differences = [f"it cannot be restored: {restored.said.strip()[-500:]}"]
            return result
    result.differences = [*_invariants.broken(settings), *_outcome(aim, again, expected)]
    result.leftovers = [*_leftovers(again), *_invariants.unfinished(root)]
    return result


def _prepare(aim: Aim, root: Path, settings: Settings) -> None:
    if aim.command == BACKUP:
        (root / "backup.tar.gz").unlink(missing_ok=True)
    elif aim.command == RESTORE:
        shutil.rmtree(settings.home)
    elif aim.command == VACUUM:
        _made_older(settings)


def _outcome(aim: Aim, again: _Run, expected: _aftermath.Contents) -> list[str]:
    """Where the home is not what the run or the command makes of it."""
    if aim.command == BACK or aim.fresh:  # one champion alone
        champion = _invariants.champion(again.settings)
        return [] if champion == "1" else [f"the champion is {champion}, not 1"]
    found = []
    if aim.command == VACUUM and again.said.splitlines()[-1].startswith("0.0 MiB"):
        found = [f"nothing was left to vacuum:\n{again.said}"]
    return found + _aftermath.differences(_aftermath.contents(again.settings), expected)


def _made_older(settings: Settings) -> None:
    """As if the tables were written days ago: replaced files are then vacuum's."""
    for commit in settings.warehouse.rglob("_delta_log/*.json"):
        lines = [json.loads(line) for line in commit.read_text().splitlines()]
        for line in lines:
            if "remove" in line:
                line["remove"]["deletionTimestamp"] -= AGE_DAYS * 86_400_000
        commit.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def moments(kills: int, seconds: float, told: Sequence[float], seed: int) -> list[Moment]:
    """One random moment in each of as many equal parts of the run; the workspace too in half.

    `told` are the seconds at which a clean run told each of its stages.
    """
    chosen = random.Random(seed)
    with_server = {*chosen.sample(range(kills), kills // 2)}
    found = []
    for number in range(kills):
        second = (number + chosen.random()) * seconds / kills
        before = [at for at in told if at <= second]
        after = second - (before[-1] if before else 0.0)
        found.append(Moment(second, len(before), after, number in with_server))
    chosen.shuffle(found)
    return found


def _source(folder: Path) -> Path:
    import pyarrow.parquet as pq

    folder.mkdir()
    for month in MONTHS:
        pq.write_table(demo.demo_trips(month, ROWS), folder / f"green_tripdata_{month}.parquet")
    return folder


def _killed(
    root: Path, port: int, source: Path, moment: Moment, clean: _aftermath.Contents
) -> Result:
    for part in range(4):  # a run faster than the clean one may end first: then a bit earlier
        shutil.rmtree(root, ignore_errors=True)
        run = _Run(root, port, "run", "--source", str(source))
        server = run.kill(moment, moment.after * 0.8**part)
        if server != ENDED:
            break
        run.stop()
    else:
        raise SystemExit(f"no run lasts until {moment.second:.1f} s")
    again = _Run(root, port, "run", "--source", str(source))
    code = again.wait()
    result = Result(f"{moment.second:.1f} s", "", server, again.seconds)
    result.stage = _aftermath.stage_under_way(again.settings) or (
        f"after {run.stages[-1]}" if run.stages else "before the first run"
    )
    again.stop()
    if code:
        result.differences = [f"the rerun failed: {again.said.strip()[-500:]}"]
        return result
    result.differences = _aftermath.differences(_aftermath.contents(again.settings), clean)
    result.differences += _invariants.broken(again.settings)
    result.leftovers = _leftovers(again)
    shutil.rmtree(root, ignore_errors=True)
    return result


class _Run:
    """A command of `taxi-assets` in a session of its own, with its output as it comes."""

    def __init__(self, root: Path, port: int, *words: str, **environment: str) -> None:
        self.settings = Settings(home=root / "home", port=port)
        self.temporary = root / "temporary"
        self.temporary.mkdir(parents=True, exist_ok=True)
        # Python's and the JVM's temporary files go where they can be counted.
        self._environment = {
            **os.environ,
            "TAXI_HOME": str(self.settings.home),
            "TAXI_PORT": str(port),
            "TMPDIR": str(self.temporary),
            "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={self.temporary} -XX:-UsePerfData",
        }
        self._started, self.seconds = time.monotonic(), 0.0
        self.told: list[float] = []  # when each stage was told, and its name
        self.stages: list[str] = []
        self.said = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "taxi_assets.cli", *words],
            env=self._environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self) -> int:
        """Let it run to its end; its exit code."""
        code = self._process.wait(LIMIT_SECONDS)
        self.seconds = time.monotonic() - self._started
        self._reader.join()
        return code

    def strike(self, mark: Path) -> bool:
        """Wait until one of its processes has ended itself, and kill all others; whether one has.

        Of a run and of the workspace: as when a machine goes down.
        """
        deadline = time.monotonic() + LIMIT_SECONDS
        while not mark.exists() and self._process.poll() is None:
            if time.monotonic() > deadline:
                raise SystemExit(f"the command does not end:\n{self.said}")
            time.sleep(0.002)
        sessions = {_session(pid) for pid in _machine.family(self._process.pid)}
        _kill({self._process.pid, *sessions} - {0, os.getsid(0)})
        self._process.wait()
        self.stop()  # one that was started before
        return mark.exists()

    def kill(self, moment: Moment, after: float) -> str:
        """Kill -9 of the run's whole session at the moment; what became of the workspace."""
        while len(self.told) < moment.stages and self._process.poll() is None:
            time.sleep(0.005)
        since = self._started + self.told[moment.stages - 1] if moment.stages else self._started
        while time.monotonic() < since + after and self._process.poll() is None:
            time.sleep(0.005)
        if self._process.poll() is not None:
            return ENDED
        sessions = {_session(pid) for pid in _machine.family(self._process.pid)}
        servers = sessions - {self._process.pid, 0}  # the workspace alone has one of its own
        _kill({self._process.pid, *(servers if moment.server else ())})
        self._process.wait()
        if not servers:
            return "not up yet"
        return "killed" if moment.server else "left alive"

    def stop(self) -> None:
        """Stop the workspace of the home."""
        command = [sys.executable, "-m", "taxi_assets.cli", "stop"]
        subprocess.run(command, env=self._environment, check=False, capture_output=True)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said += line
            if line.startswith("  ") and " s  " in line:
                self.stages.append(line.split()[0])
                self.told.append(time.monotonic() - self._started)


def _kill(sessions: set[int]) -> None:
    """Until no process of the sessions is left: one may be forking another just now."""
    while alive := [pid for pid in _processes() if _session(pid) in sessions and _lives(pid)]:
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
