"""The wheel that the bundle ships: what it holds, and a step from it where there is no Dagster."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import files, requires, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest_run import MONTHS, Home, table_rows
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from databricks_steps import schemas
from databricks_steps.settings import REPOSITORY

pytestmark = pytest.mark.long  # an environment made of the wheel

PACKAGES = ("databricks_steps", "taxi_assets")
STEPS = ("raw_trips", "trips", "pickup_features")
DAGSTER = (
    "dagster",
    "dagster_databricks",
    "dagster_mlflow",
    "dagster_pyspark",
    "dagster_webserver",
)


def packaged(root: Path) -> set[str]:
    """Every module of the two packages but for the emulator, and the data that pyproject.toml
    names, as it would be in an archive: what a wheel and a launched step need, and all that they
    may hold."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    found = {file for package in PACKAGES for file in (root / package).rglob("*.py")}
    found -= {*(root / "taxi_assets" / "emulator").rglob("*.py")}
    for package, patterns in project["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            data = set((root / package).glob(pattern))
            assert data, f"{package}: no {pattern}"
            found |= data
    return {file.relative_to(root).as_posix() for file in found}


def elsewhere(**more: str) -> dict[str, str]:
    """The environment without anything that leads back to the checkout or to this project's."""
    ours = ("TAXI_", "PYTHON", "VIRTUAL_ENV", "DATABRICKS_", "MLFLOW_", "DAGSTER_", "SPARK_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


def ran(*words: object, folder: Path, **environment: str) -> str:
    """What a command printed; it must succeed."""
    done = subprocess.run(
        [*map(str, words)],
        cwd=folder,
        env=elsewhere(**environment),
        capture_output=True,
        text=True,
        timeout=1_200,
        check=False,
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as the bundle builds it, in a copy of the sources: setuptools writes beside them."""
    sources = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, sources)
    for name in (*PACKAGES, "taxi_assets_tests", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, sources / name, ignore=ignored)
    bundle = yaml.safe_load((REPOSITORY / "databricks.yml").read_text())
    python, *words = shlex.split(bundle["artifacts"]["wheel"]["build"])
    assert python == "python3"
    offline = ("--no-build-isolation", "--no-index")
    ran(sys.executable, *words, *offline, folder=sources)
    (built,) = (sources / "dist").iterdir()
    return built


def required(wheel: Path, extra: str) -> set[str]:
    """The distributions that the wheel asks for with an extra, and those that they ask for.

    Each is here, in a version that whoever asks for it allows.
    """
    with zipfile.ZipFile(wheel) as archive:
        (about,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(about).decode())
    asked = [(line, extra) for line in metadata.get_all("Requires-Dist") or []]
    found: dict[str, set[str]] = {}  # name → the extras of it that were followed
    while asked:
        line, of = asked.pop()
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": of}):
            continue
        name = canonicalize_name(need.name)
        assert version(name) in need.specifier, line
        for followed in {"", *need.extras} - found.setdefault(name, set()):
            found[name].add(followed)
            asked += [(each, followed) for each in requires(name) or []]
    return set(found)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel, its extra `embedded`, and nothing else.

    What the wheel asks for is linked from this environment, which has it: nothing is fetched.
    """
    folder = tmp_path_factory.mktemp("clean")
    ran(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    python = folder / "venv" / "bin" / "python"
    (packages,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    for name in required(wheel, "embedded"):
        for file in files(name) or []:
            source, target = Path(str(file.locate())), packages / file
            if ".." in file.parts or file.suffix == ".pyc":  # a command; or linked below
                continue
            linked = {target: source}
            if file.suffix == ".py":
                made = (source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")
                linked |= {target.parent / "__pycache__" / each.name: each for each in made}
            for link, to in linked.items():
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():  # `mlflow` and `mlflow-skinny` hold the same files
                    link.symlink_to(to)
    offline = ("--no-index", "--no-deps", "--no-compile")
    ran(python, "-m", "pip", "install", "-q", *offline, wheel, folder=folder)
    ran(python, "-m", "pip", "check", folder=folder)
    return python


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(about).decode())
        commands = archive.read(about.replace("METADATA", "entry_points.txt")).decode()
    information = about.removesuffix("METADATA")
    ours = [name for name in names if not name.startswith(information)]
    assert set(ours) == packaged(wheel.parents[1])  # the sources it was built from
    assert len(ours) == len(set(ours))
    for data in (
        "databricks_steps/platforms/embedded/log4j2.properties",
        "databricks_steps/serving/config/serving_endpoint_config.json",
        "databricks_steps/py.typed",
        "taxi_assets/py.typed",
    ):
        assert data in ours
    assert {name.removeprefix(information) for name in names if name not in ours} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
        "top_level.txt",
    }
    assert "taxi-assets = taxi_assets.cli:main" in commands
    assert "embedded" in (metadata.get_all("Provides-Extra") or [])
    core = [need for need in metadata.get_all("Requires-Dist") or [] if "extra ==" not in need]
    assert core
    assert [need for need in core if need.startswith(("dagster", "pyspark"))] == []


def test_the_clean_environment_has_the_wheel_and_no_dagster(
    installed: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [installed, "-c", "import dagster"],
        cwd=tmp_path,
        env=elsewhere(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'dagster'" in done.stderr
    code = (
        "import importlib.util, json, databricks_steps, taxi_assets;"
        f"absent = [n for n in {DAGSTER} if importlib.util.find_spec(n) is None];"
        "print(json.dumps([databricks_steps.__file__, taxi_assets.__file__, absent]))"
    )
    *modules, absent = json.loads(ran(installed, "-c", code, folder=tmp_path))
    environment = installed.parents[1].resolve()
    for file in modules:
        assert Path(file).resolve().is_relative_to(environment), file
        assert "site-packages" in Path(file).parts
    assert absent == list(DAGSTER)


def made(python: Path | str, home: Home, folder: Path, source: Path) -> list[dict[str, Any]]:
    """The outcomes of the steps to `pickup_features` for one month, by the command line."""
    outcomes = []
    for step in STEPS:
        given = ("--source", source) if step == "raw_trips" else ()
        words = ("-m", "databricks_steps", step, "--months", MONTHS[0], *given)
        out = ran(python, *words, folder=folder, TAXI_HOME=str(home.path))
        outcomes += [json.loads(line) for line in out.splitlines()]
    return outcomes


def test_a_step_from_the_wheel_makes_the_rows_of_the_checkout(
    installed: Path, small_source: Path, tmp_path: Path
) -> None:
    source = small_source / f"green_tripdata_{MONTHS[0]}.parquet"
    wheels, checkouts = Home(tmp_path / "wheel", 8200), Home(tmp_path / "checkout", 8200)
    by_wheel = made(installed, wheels, tmp_path, source)
    by_checkout = made(sys.executable, checkouts, REPOSITORY, source)
    (features,) = [outcome for outcome in by_wheel if outcome["name"] == "pickup_features"]
    verdicts = {verdict["check"]: verdict["passed"] for verdict in features["verdicts"]}
    assert verdicts == {"key_unique": True, "no_future_knowledge": True}
    assert [(each["name"], each["rows"]) for each in by_wheel] == [
        (each["name"], each["rows"]) for each in by_checkout
    ]
    for name in STEPS:
        computed = schemas.TABLES[name].computed
        rows = table_rows(wheels, name, computed)
        print(f"{name}: {len(rows):,} rows")
        assert rows, name
        assert rows == table_rows(checkouts, name, computed), name
