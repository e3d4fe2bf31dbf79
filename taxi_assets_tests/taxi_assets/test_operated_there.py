"""Target `dev` run and operated from the command line, with the emulator as its workspace.

There Unity Catalog is the emulator's own tables; MLflow is its database, told by TAXI_TRACKING_URI.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest_run import MONTHS, Home
from faulty_proxy import client

from databricks_steps.settings import SAIL
from databricks_steps.training import deployment_log, registry
from taxi_assets import status
from taxi_assets.deployment import endpoint
from taxi_assets.emulator import auth, process
from taxi_assets_tests.waiting import until

pytestmark = [pytest.mark.long, pytest.mark.alone]  # two runs of the pipeline


@dataclass(frozen=True)
class There:
    """A home whose emulator is the workspace of `dev`, where two versions were promoted."""

    home: Home
    known: dict[str, str]

    def call(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return self.home.call(*arguments, "--target", "dev", **{**self.known, **more})

    def served(self) -> str:
        config = client(self.home).serving_endpoints.get(self.home.settings.endpoint).config
        assert config is not None
        (entity,) = config.served_entities or []
        return str(entity.entity_version)

    def ledger(self) -> list[tuple[str, str, str]]:
        rows = deployment_log.entries(status.logs(self.home.settings))
        return [(row["action"], row["to_version"], row["moved_by"]) for row in rows]


@pytest.fixture(scope="module")
def there(homes: Any, small_source: Path) -> There:
    home: Home = homes("there")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXI_SPARK", SAIL)  # of the emulator's tasks
        process.ensure_running(home.settings)
    known = {
        "DATABRICKS_HOST": home.settings.host,
        "DATABRICKS_TOKEN": auth.token(home.settings.token_file),
        "TAXI_COMPUTE": "serverless",
        "TAXI_TRACKING_URI": home.settings.mlflow_uri,
    }
    made = There(home, known)
    for months in (":".join(MONTHS[:2]), ":".join(MONTHS[::2])):
        done = made.call("run", "--source", str(small_source), "--months", months)
        assert done.returncode == 0, done.stderr + done.stdout
    return made


def test_status_tells_the_tables_there_and_what_serves(there: There) -> None:
    done = there.call("status", "--json")
    assert done.returncode == 0, done.stderr
    found, tables = json.loads(done.stdout), status.logs(there.home.settings)
    assert found["tables"]["trips"] == {"rows": tables.rows("trips"), "months": list(MONTHS)}
    assert found["tables"]["deployments"] == {"rows": 2, "months": []}
    assert found["champion"]["version"] == "2"
    assert (found["endpoint"]["version"], found["endpoint"]["state"]) == ("2", "READY")
    assert found["home"] == str(there.home.path / "dev")
    assert "champion  version 2" in there.call("status").stdout


def test_the_report_has_the_moves_and_the_drift_of_the_tables_there(there: There) -> None:
    done = there.call("report")
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.strip()).read_text()
    assert page.count("promoted") >= 2
    assert MONTHS[-1] in page
    assert Path(done.stdout.strip()).parent == there.home.path / "dev" / "reports"


def test_a_version_is_made_again_there(there: There) -> None:
    done = there.call("reproduce", "1", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["equal"]
    line = there.call("reproduce", "9").stderr.strip()
    assert line.startswith("error: A version must be registered: ")
    assert len(line.splitlines()) == 1


def test_requests_are_replayed_there(there: There) -> None:
    before, environment = there.home.captured(), {**there.known, "TAXI_TARGET": "dev"}
    asked = there.home.call("query", str(endpoint.BATCH_FILE), **environment)
    assert asked.returncode == 0, asked.stderr
    fares = json.loads(asked.stdout)["predictions"]
    until(lambda: there.home.captured() > before)
    done = there.call("replay", "--version", "2", "--hours", "2:0", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["version"], found["requests"], found["different"]) == ("2", 1, 0)
    assert found["answered_by"] == {"2": len(fares)}


def test_alerts_are_those_of_the_target(there: There) -> None:
    done = there.call("alerts")
    assert (done.returncode, done.stdout) == (0, f"0 open{status.UNWATCHED}\n")


def test_the_doctor_says_who_makes_the_endpoint_and_that_the_environment_resolves(
    there: There,
) -> None:
    found = json.loads(there.call("doctor", "--deep", "--json").stdout)
    told = {each["check"]: (each["level"], each["found"]) for each in found}
    assert told["environment"][0] == "ok", told["environment"]
    assert told["online store"] == ("ok", "taxi-online-store is AVAILABLE")
    assert told["endpoint"] == ("ok", "mlops-taxi-fare-endpoint was created by token")


def test_a_version_that_was_left_is_never_promoted_again(there: There, small_source: Path) -> None:
    plan = there.call("rollback", "--dry-run")
    assert plan.stdout.startswith("dry run: would move version 2 to version 1"), plan.stderr
    assert there.served() == "2"
    done = there.call("rollback", "--why", "fares too high", TAXI_COMPUTE="run")
    assert done.stdout.startswith("moved version 2 to version 1, endpoint updated"), done.stderr
    (cluster,) = client(there.home).clusters.list()  # what was read and written had one
    assert cluster.state is not None
    assert cluster.state.value == "TERMINATED"
    settings = there.home.settings
    assert there.served() == "1"
    assert registry.require(settings, registry.CHAMPION).number == "1"
    user = client(there.home).current_user.me().user_name
    assert there.ledger()[-1] == ("rolled back", "1", user)
    assert f"by {user}: fares too high" in registry.numbered(settings, "2").tags["rolled_back"]
    again = ("run", "--source", str(small_source), "--months", ":".join(MONTHS[::2]))
    later = there.call(*again)
    assert later.returncode == 0, later.stderr
    assert registry.require(settings, registry.CANDIDATE).number == "2"
    assert registry.require(settings, registry.CHAMPION).number == "1"
    assert there.served() == "1"
    assert len(there.ledger()) == 3
