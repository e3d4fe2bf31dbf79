"""Runs killed at random moments and run again: to the same rows, with nothing left behind."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import _aftermath, _machine
from databricks_steps.settings import Settings
from databricks_steps.trips import demo

MONTHS = ("2022-01", "2022-02", "2022-03")
ROWS = 8_000  # trips of each month: a run is mostly its stages' own time
PORT = 8550
LIMIT_SECONDS = 900  # of one run
ENDED = "the run had ended"


@dataclass(frozen=True)
class Moment:
    """When to kill: so many seconds after a run has told so many stages, `second` of the clean run.

    Counted from the last stage told, a moment lies in the same stage however busy the machine is.
    """

    second: float
    stages: int
    after: float
    server: bool  # whether the workspace's own process is killed as well


@dataclass
class Result:
    """What became of one kill."""

    moment: Moment
    stage: str
    server: str
    rerun: float = 0.0
    differences: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        moment = f"{self.moment.second:6.1f} s  {self.stage:<28}workspace {self.server:<12}"
        told = "; ".join(self.differences) or "equal"
        left = f"  LEFT: {'; '.join(self.leftovers)}" if self.leftovers else ""
        return f"{moment}rerun {self.rerun:5.1f} s  {told}{left}"


def main(arguments: Sequence[str]) -> int:
    """A clean run, then the kills, each in a home of its own; 1 unless every one ends equal."""
    parser = argparse.ArgumentParser("python -m benchmarks resilience", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=20220131)
    parser.add_argument("--port", type=int, default=PORT)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = _source(root / "source")
        clean = _Run(root / "clean", given.port, source)
        code = clean.wait()
        clean.stop()
        if code:
            raise SystemExit(f"the clean run failed:\n{clean.said}")
        expected = _aftermath.contents(clean.settings)
        seconds, told = clean.seconds, clean.told
        print(_machine.described())
        print(f"a clean run: {seconds:.1f} s, {len(told)} stages; seed {given.seed}\n", flush=True)
        usual = _aftermath.leftovers(clean.settings, clean.temporary)
        for leftover in usual:
            print(f"left by the clean run as well: {leftover}")
        results = []
        for number, moment in enumerate(moments(given.kills, seconds, told, given.seed), 1):
            result = _killed(root / f"killed-{number}", given.port, source, moment, expected)
            result.leftovers = [left for left in result.leftovers if left not in usual]
            print(f"{number:3}  {result.line}", flush=True)
            results.append(result)
    equal = sum(not result.differences for result in results)
    tidy = sum(not result.leftovers for result in results)
    reruns = sorted(result.rerun for result in results)
    print(f"\nequal to the clean run: {equal} of {len(results)}")
    print(f"nothing left behind: {tidy} of {len(results)}")
    ratio = reruns[len(reruns) // 2] / seconds
    print(f"a rerun takes {ratio:.2f} of a clean run (median), at most {reruns[-1] / seconds:.2f}")
    return int(equal < len(results) or tidy < len(results))


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
        run = _Run(root, port, source)
        server = run.kill(moment, moment.after * 0.8**part)
        if server != ENDED:
            break
        run.stop()
    else:
        raise SystemExit(f"no run lasts until {moment.second:.1f} s")
    again = _Run(root, port, source)
    code = again.wait()
    result = Result(moment, "", server, again.seconds)
    result.stage = _aftermath.stage_under_way(again.settings) or (
        f"after {run.stages[-1]}" if run.stages else "before the first run"
    )
    again.stop()
    if code:
        result.differences = [f"the rerun failed: {again.said.strip()[-500:]}"]
        return result
    result.differences = _aftermath.differences(_aftermath.contents(again.settings), clean)
    result.leftovers = _aftermath.leftovers(again.settings, again.temporary)
    shutil.rmtree(root, ignore_errors=True)
    return result


class _Run:
    """`taxi-assets run` in a session of its own, with its output as it comes."""

    def __init__(self, root: Path, port: int, source: Path) -> None:
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
            [sys.executable, "-m", "taxi_assets.cli", "run", "--source", str(source)],
            env=self._environment,
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
