"""Commands, options, files and settings that the documents name are there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from databricks_steps.settings import REPOSITORY
from databricks_steps.steps import STEPS
from taxi_assets.cli import main
from taxi_assets.definitions import defs
from taxi_assets_tests.completion import completed
from taxi_assets_tests.pages import PAGES, commands

SCRIPTS = {"run_mlops.sh", "run_e2e_mlops_pipeline.sh"}


def unknown(words: list[str]) -> str | None:
    """What of a command line is not there, if anything."""
    program = words[0].rpartition("/")[2]
    if program in SCRIPTS:
        return _unknown_options(main.commands["run"], words[1:])
    if program == "taxi-assets" and len(words) > 1 and not words[1].startswith("-"):
        command = main.commands.get(words[1])
        if command is None:
            return f"no command {words[1]}"
        return _unknown_options(command, words[2:])
    if words[:3] == ["python", "-m", "benchmarks"] and len(words) > 3 and words[3] != "NAME":
        there = (REPOSITORY / "benchmarks" / f"{words[3]}.py").exists()
        return None if there else f"no benchmark {words[3]}"
    if words[:3] == ["python", "-m", "databricks_steps"] and len(words) > 3 and words[3] != "STEP":
        return None if words[3] in STEPS else f"no step {words[3]}"
    return None


def _unknown_options(command: click.Command, words: list[str]) -> str | None:
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        inner = command.commands.get(words[0])
        return _unknown_options(inner, words[1:]) if inner else f"no command {words[0]}"
    known = {name for each in command.params for name in each.opts}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    lost = sorted(given - known - {"--help"})
    return f"{command.name} has no {', '.join(lost)}" if lost else None


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_command_of_a_page_is_there(page: Path) -> None:
    wrong = [f"{' '.join(words)}: {why}" for words in commands(page) if (why := unknown(words))]
    assert wrong == []


def test_the_reader_of_pages_finds_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`taxi-assets run --fast`\n```bash\n./run_mlops.sh --months 2022-01 --now  # why\n"
        "A=1 python -m benchmarks none\ntaxi-assets fly | less\n```\n"
    )
    assert [unknown(words) for words in commands(page)] == [
        "run has no --fast",
        "run has no --now",
        "no benchmark none",
        "no command fly",
        None,
    ]


def test_every_command_is_on_a_page() -> None:
    lines = [words for page in PAGES for words in commands(page)]
    told = {words[1] for words in lines if words[0].endswith("taxi-assets") and len(words) > 1}
    assert set(main.commands) - told == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_file_that_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    lost = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert lost == []


def test_the_readme_counts_the_checks_that_there_are() -> None:
    told = re.findall(
        r"^checks +(\d+) passed",
        (REPOSITORY / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert told == [str(len(defs.resolve_asset_graph().asset_check_keys))]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0, done.output
    assert "_TAXI_ASSETS_COMPLETE" in done.output


def test_completion_knows_commands_and_their_options(tmp_path: Path) -> None:
    assert completed("taxi-assets st") == ["status", "stop"]
    assert completed("taxi-assets scenario fare") == ["fare-rise"]
    home = tmp_path / "home"
    for words in ("taxi-assets rollback --to ", "taxi-assets run --months "):
        assert completed(words, TAXI_HOME=str(home)) == []
        assert not home.exists()
