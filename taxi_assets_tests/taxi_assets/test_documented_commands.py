"""Every command that a page names runs: here, on a home with a model, or in the test named here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest_run import Home
from webhook_receiver import Receiver

from databricks_steps import table_docs
from databricks_steps.settings import REPOSITORY
from taxi_assets_tests.pages import PAGES, commands

TESTS = REPOSITORY / "taxi_assets_tests"
FIRST_RUN = "taxi_assets/conftest_run.py"
# As a page has it, but for its folder → what it prints. In this order, on one home.
HERE = {
    "taxi-assets status": r"champion +version 1",
    "taxi-assets doctor": r"(?s)ok +engine.*ok +endpoint",
    "taxi-assets doctor --deep": r"(?s)ok +data files.*ok +databases.*ok +records agree",
    "taxi-assets report": r"report\.html",
    "taxi-assets query --now 74 42 1.8": r"predictions",
    "taxi-assets query FILE": r"predictions",
    "taxi-assets replay --hours 24:0 --version 3": r"0 differences of more than",
    "taxi-assets alerts": r"^0 open: no alert is raised before",
    "taxi-assets alerts test": r"reached$",
    "taxi-assets alerts deliver": r"^0 told, 0 given up$",
    "taxi-assets deploy": r"= unchanged +serving endpoint",
    "taxi-assets deploy --plan": r"= unchanged +serving endpoint",
    "taxi-assets rollback --dry-run": r"Rollback needs a champion before this one",
    "taxi-assets rollback --why": r"Rollback needs a champion before this one",
    "taxi-assets rollback --to VERSION --why TEXT --dry-run": r"^dry run: version 1 is champion",
    "taxi-assets approve VERSION": r"version 1",
    "taxi-assets scenario NAME": r"Half the demand",
    "taxi-assets vacuum --keep 30 --dry-run": r"MiB would go$",
    "taxi-assets configure": r"dagster$",
    "taxi-assets stop": r"^stopped$",
    "taxi-assets serve": r"http://127.0.0.1:\d+/#pass=",  # others ask it after these tests
    "taxi-assets completion bash": r"_TAXI_ASSETS_COMPLETE",
    "python -m databricks_steps pickup_features --months 2022-01": r"pickup_features",
    "python -m databricks_steps.table_docs": r"\A\Z",  # it writes the page, to the same words
}
# There is one version yet: the command runs, and says so.
REFUSED = ("taxi-assets rollback --dry-run", "taxi-assets rollback --why")
GIVEN = {
    "VERSION": "1",
    "TEXT": "a test",
    "NAME": "snowstorm",
    "FILE": "databricks_steps/serving/config/test_batch_predictions.json",
    "3": "1",  # the version to replay
}
# The first words of all others → what runs them: the test, if not with each option of a page.
ELSEWHERE = {
    "run_mlops.sh": "../.ci/run",
    "run_tests.sh": "../.ci/run",
    "install_databricks_cli.sh": "../.ci/run",
    "taxi-assets run": FIRST_RUN,
    "taxi-assets dev": "taxi_assets/test_dev.py",
    "taxi-assets mlflow": "taxi_assets/test_pages.py",
    "taxi-assets backtest": "databricks_steps/test_backtest.py",
    "taxi-assets certify": "taxi_assets/test_certify.py",
    "taxi-assets status --target": "taxi_assets/test_operated_there.py",
    "taxi-assets rollback --target": "taxi_assets/test_operated_there.py",
    "taxi-assets backup": "taxi_assets/test_backup.py",
    "taxi-assets restore": "taxi_assets/test_backup.py",
    "taxi-assets reproduce": "taxi_assets/test_models.py",
    "taxi-assets serve": "taxi_assets/test_backup.py",
    "taxi-assets alerts ack": "taxi_assets/test_delivery.py",
    "databricks bundle validate": "test_bundle_cli.py",
    "docker compose": "taxi_assets/test_postgres.py",
}
# An account on Databricks, the city's server, or an hour of an idle machine is what these want.
NOWHERE = (
    "run_mlops.sh --target dev",
    "run_mlops.sh --source tlc:green",
    "python -m benchmarks",
    "databricks bundle deploy",
    "databricks bundle run",
    "taxi-assets deploy --plan --target",
    "taxi-assets approve VERSION --target prod",
)
PROGRAMS = ("taxi-assets", "databricks", "docker")
SCRIPTS = ("run_mlops.sh", "run_tests.sh", "install_databricks_cli.sh")


def documented() -> set[str]:
    """The command lines of all pages, without the folder of the program."""
    found = set()
    for words in (words for page in PAGES for words in commands(page)):
        program = words[0].rpartition("/")[2]
        module = words[:2] == ["python", "-m"] and words[2:] != ["databricks_steps"]
        if program in SCRIPTS or module or (program in PROGRAMS and len(words) > 1):
            found.add(" ".join([program, *words[1:]]).strip())
    return found


def test_each_is_run_here_or_where_it_is_said_to_be() -> None:
    others = (*ELSEWHERE, *NOWHERE)
    lines = documented() - set(HERE)
    assert [line for line in sorted(lines) if not line.startswith(others)] == []
    assert [line for line in HERE if line not in documented()] == []
    assert [each for each in others if not any(x.startswith(each) for x in documented())] == []
    for start, where in ELSEWHERE.items():
        program, word = start.split()[0], start.split()[-1]
        named = word if program == word else f'"{word}"'  # as an argument, not as any word
        assert named in (TESTS / where).read_text(encoding="utf-8"), start


@pytest.fixture(scope="module")
def home(homes: Any, first_run: tuple[Home, Any]) -> Iterator[Home]:
    """The first run's home: what it serves is asked, and no command changes its model."""
    before = table_docs.PAGE.read_bytes()
    yield first_run[0]
    for landed in (first_run[0].path / "landing").glob("*"):
        landed.unlink()
    assert table_docs.PAGE.read_bytes() == before


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    listening = Receiver()
    yield listening
    listening.close()


@pytest.mark.long  # a process each
@pytest.mark.parametrize("line", HERE)
def test_a_documented_command_does_what_it_says(home: Home, receiver: Receiver, line: str) -> None:
    program, *words = line.split()
    words = [GIVEN.get(word, word) for word in words]
    if words[-1] == "--why":
        words.append("a test")
    command = [sys.executable, *words]
    if program == "taxi-assets":
        command = [str(Path(sys.executable).with_name(program)), *words]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **home.environment, "TAXI_ALERT_URLS": receiver.url},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    said = done.stdout + done.stderr
    assert re.search(HERE[line], said, re.MULTILINE), said
    assert done.returncode == int(line in REFUSED), said
    assert receiver.titles == (["[test] taxi-assets"] if line == "taxi-assets alerts test" else [])
