"""The pages that people open, as a real browser shows them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from conftest_run import free_port

from taxi_assets.emulator import auth

pytestmark = pytest.mark.slow  # browser, servers, a whole run
SECONDS = 120
CHAMPION = {"alias": "champion", "version": "1"}


def seen(page: str, folder: Path) -> str:
    """What the browser has made of a page once its scripts have run, as HTML."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser: Chromium is not installed (Debian: apt-get install chromium)")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    profile = f"--user-data-dir={folder / 'profile'}"
    asked = [browser, *options, profile, "--virtual-time-budget=8000", "--dump-dom", page]
    # A proxy of the environment is not for pages of this machine.
    quiet = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        asked, capture_output=True, text=True, timeout=SECONDS, check=False, env=quiet
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_workspace_shows_endpoint_and_online_tables_to_who_has_the_token(
    first_run: Any, tmp_path: Path
) -> None:
    home, _ = first_run
    token = auth.token(home.settings.token_file)
    page = seen(f"{home.settings.host}/#token={token}", tmp_path)
    assert f'data-endpoint="{home.settings.endpoint}"' in page
    assert re.search(r'<span class="good">READY</span>', page)
    for name in ("pickup_features", "dropoff_features"):
        assert f"<td>{home.settings.table(name)}_online</td>" in page
    assert home.settings.registered_model in page
    assert token not in page


def test_without_the_token_the_workspace_shows_nothing(first_run: Any, tmp_path: Path) -> None:
    home, _ = first_run
    page = seen(f"{home.settings.host}/#token=wrong", tmp_path)
    assert "That is not the token." in page
    assert 'data-endpoint="' not in page


def test_the_report_shows_its_sections_and_pictures(first_run: Any, tmp_path: Path) -> None:
    home, _ = first_run
    done = home.call("report")
    assert done.returncode == 0, done.stderr
    page = seen(Path(done.stdout.strip()).as_uri(), tmp_path)
    for name in ("Pipeline", "Models", "Drift and live error", "Endpoint", "Time and memory"):
        assert f"<h2>{name}</h2>" in page
    assert 'src="data:image/' in page


@pytest.mark.long  # MLflow's server takes a minute to start beside other tests
def test_mlflows_ui_shows_the_runs_and_the_model_of_the_home(
    first_run: Any, tmp_path: Path
) -> None:
    home, _ = first_run
    host = f"http://127.0.0.1:{(port := free_port())}"
    with (tmp_path / "mlflow.log").open("wb") as log:
        command = [sys.executable, "-m", "taxi_assets.cli", "mlflow", "--port", str(port)]
        server = subprocess.Popen(
            command, env=home.environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            name = home.settings.registered_model
            found = json.loads(
                answered(f"{host}/api/2.0/mlflow/registered-models/get?name={name}", server)
            )
            page = seen(f"{host}/#/models", tmp_path)
        finally:
            server.terminate()  # itself, not its session: nothing goes on without it
            server.wait(30)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert name in page
    model = found["registered_model"]
    assert model["aliases"] == [{"alias": "candidate", "version": "1"}, CHAMPION]
    (newest,) = model["latest_versions"]
    assert (newest["version"], newest["status"]) == ("1", "READY")


def answered(url: str, server: subprocess.Popen[bytes]) -> str:
    """What a server says once it has started."""
    for _ in range(SECONDS):
        assert server.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.URLError:
            time.sleep(1)
    raise AssertionError(f"{url} did not answer in {SECONDS} seconds")
