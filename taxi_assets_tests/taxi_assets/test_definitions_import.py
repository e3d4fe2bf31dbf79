"""What Dagster loads needs no network, no token, and only the packages of where it is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from databricks_steps.settings import REPOSITORY

pytestmark = pytest.mark.slow  # a process each
SECONDS = 5.0
LOAD = """
import sys

absent = tuple(sys.argv[1].split(","))


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in absent or name.startswith(tuple(f"{each}." for each in absent)):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())

import socket


def refuse(*_, **__):
    raise OSError("there is no network")


socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse

from taxi_assets.definitions import defs

assets = sorted(spec.key.to_user_string() for spec in defs.resolve_all_asset_specs())

import json
import resource

used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"seconds": used.ru_utime + used.ru_stime, "assets": assets}))
"""
# Nowhere needed to load: the UI, the client of a cluster, a client of the workspace, the launcher.
NOWHERE = (
    *("dagster_webserver", "databricks.feature_engineering"),
    *("databricks.sdk", "dagster_databricks"),
)
ON_CLUSTER = (  # what the embedded platform and its workspace need is not there either
    *("dagster_pyspark", "dagster_mlflow", "deltalake", "fastapi", "httptools", "orjson"),
    *("prometheus_client", "uvicorn"),
)


def load(home: Path, absent: tuple[str, ...], **variables: str) -> subprocess.CompletedProcess[str]:
    """Load the definitions where there is little: the packages, the variables, the network."""
    secret = ("DATABRICKS_", "TAXI_", "MLFLOW_", "AWS_", "AZURE_", "GOOGLE_", "DAGSTER_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(secret) and "TOKEN" not in name
    }
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, ",".join(absent)],
        cwd=REPOSITORY,
        env={**kept, "HOME": str(home), "TAXI_HOME": str(home / "taxi"), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("variables", "absent"),
    [
        pytest.param({}, NOWHERE, id="no target"),
        pytest.param({"TAXI_TARGET": "local"}, NOWHERE, id="local"),
        pytest.param({"TAXI_TARGET": "loopback"}, NOWHERE, id="loopback"),
        pytest.param({"TAXI_TARGET": "dev"}, NOWHERE, id="dev"),
        pytest.param(
            {"TAXI_TARGET": "dev", "TAXI_LAUNCHED": "1"},
            (*NOWHERE, *ON_CLUSTER),
            id="dev on the cluster",
        ),
    ],
)
def test_the_definitions_load_in_five_seconds_with_no_network_and_no_token(
    tmp_path: Path, variables: dict[str, str], absent: tuple[str, ...]
) -> None:
    done = load(tmp_path, absent, **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = json.loads(done.stdout)
    print(f"{loaded['seconds']:.2f} s of processor time")
    assert {"raw_trips", "pickup_features", "fare_model", "batch_predictions"} <= set(
        loaded["assets"]
    )
    assert loaded["seconds"] < SECONDS  # of the processor: a busy machine is no slow import
    assert not (tmp_path / "taxi").exists()  # loading starts nothing and writes nothing


@pytest.mark.parametrize("needed", ["dagster", "databricks_steps.months"])
def test_a_package_that_is_needed_is_missed(tmp_path: Path, needed: str) -> None:
    """The absence is real: without what loading needs, it fails."""
    done = load(tmp_path, (needed,))
    assert done.returncode == 1
    assert f"No module named '{needed}'" in done.stderr


LIGHT = """
import sys
from click.testing import CliRunner
from taxi_assets.cli import main
done = CliRunner().invoke(main, sys.argv[1:])
assert done.exit_code == 0, done.output
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"dagster", "mlflow", "pyspark"}))
"""


@pytest.mark.parametrize(
    "words", ["--help", "run --help", "query --help", "alerts", "stop", "completion bash"]
)
def test_a_light_command_imports_nothing_heavy(tmp_path: Path, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *words.split()],
        env={**os.environ, "TAXI_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr[-2000:]
