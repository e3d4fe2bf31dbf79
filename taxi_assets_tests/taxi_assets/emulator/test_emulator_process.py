"""Starting, finding and stopping the workspace: one a home, and clear words when it cannot."""

from __future__ import annotations

import http.server
import socket
import stat
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from databricks_steps.errors import ServingError, SettingsError
from databricks_steps.settings import Settings
from taxi_assets.deployment import online_store
from taxi_assets.emulator import auth, process
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import free_port, kill

pytestmark = pytest.mark.slow  # emulators that start and stop


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home with space", port=free_port())


def who_asks(settings: Settings) -> str:
    client = online_store.workspace_client(settings.host, auth.token(settings.token_file))
    return str(client.current_user.me().user_name)


def test_many_starters_make_one_workspace_which_stops_cleanly(own: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        hosts = set(pool.map(process.ensure_running, [own] * 4))
    assert hosts == {own.host}
    found = process.status(own)
    assert (found.running, found.port, found.host) == (True, own.port, own.host)
    assert requests.get(f"{own.host}/health", timeout=5).json()["pid"] == found.pid
    assert stat.S_IMODE(own.token_file.stat().st_mode) == 0o600
    me = who_asks(own)
    assert str(uuid.UUID(me)) == me
    elsewhere = replace(own, port=free_port())
    with pytest.raises(
        ServingError, match=rf"has its own on port {own.port}.*TAXI_PORT={own.port}"
    ):
        process.ensure_running(elsewhere)
    assert process.stop(own) is True
    assert process.status(own).running is False
    assert process.stop(own) is False
    log = process.log_file(own).read_text()
    assert "Application shutdown complete" in log
    assert "Traceback" not in log
    token = own.token_file.read_text()
    process.ensure_running(own)
    assert own.token_file.read_text() == token
    killed = process.status(own).pid
    assert killed is not None
    kill(own)
    process.ensure_running(own)
    assert process.status(own).pid != killed
    assert who_asks(own) == me
    process.stop(own)


def test_a_port_in_use_is_named(own: Settings) -> None:
    refused = pytest.raises(ServingError, match=rf"port {own.port} is in use.*TAXI_PORT")
    with socket.create_server(("127.0.0.1", own.port)), refused:
        process.ensure_running(own)
    assert process.status(own).running is False


def test_another_server_on_the_port_never_sees_the_token(own: Settings) -> None:
    auth.token(own.token_file)
    seen: list[str] = []

    class Impostor(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.path} {self.headers}")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "ok", "pid": 1, "proof": "0"}')

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", own.port), Impostor)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ServingError, match="in use by another program"):
            process.ensure_running(own)
    finally:
        server.shutdown()
        server.server_close()
    assert seen
    assert auth.token(own.token_file) not in "".join(seen)


def test_a_relay_to_the_homes_own_server_never_sees_the_token(own: Settings) -> None:
    """Another user's program on the port that a shell names, the workspace on another port."""
    process.ensure_running(own)
    seen: list[bytes] = []

    class Relay(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.path} {self.headers}".encode())
            answer = requests.get(f"{own.host}{self.path}", timeout=10)
            self.send_response(answer.status_code)
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ServingError, match="has its own on port"):
            process.ensure_running(replace(own, port=server.server_address[1]))
    finally:
        server.shutdown()
        server.server_close()
        process.stop(own)
    assert b"/health" in b"".join(seen)
    assert auth.token(own.token_file).encode() not in b"".join(seen)


def test_the_second_server_of_a_home_ends_with_one_line(own: Settings) -> None:
    process.ensure_running(own)
    try:
        command = [sys.executable, "-m", "taxi_assets.emulator", "--home", str(own.home)]
        second = subprocess.run(
            [*command, "--port", str(free_port())], capture_output=True, text=True, check=False
        )
    finally:
        process.stop(own)
    assert second.returncode == 1
    assert "A home has one workspace" in second.stderr
    assert len(second.stderr.splitlines()) == 1


def test_a_home_that_cannot_be_used_is_named(own: Settings) -> None:
    own.home.mkdir(parents=True)
    own.token_file.write_text("\n")
    with pytest.raises(SettingsError, match="must hold a token"):
        process.ensure_running(own)
    own.token_file.write_text("secret")
    own.token_file.chmod(0o644)
    assert auth.token(own.token_file) == "secret"
    assert stat.S_IMODE(own.token_file.stat().st_mode) == 0o600
    (own.home / "workspace.db").mkdir()
    with pytest.raises(ServingError, match=r"must start: .*unable to open database file"):
        process.ensure_running(own)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("workspace.db", "Restore a backup, or remove it and call taxi-assets deploy"),
        ("online.db", "Remove it and call taxi-assets run, which publishes"),
    ],
)
def test_a_database_that_is_none_is_told_in_one_line_with_the_way_out(
    own: Settings, name: str, remedy: str
) -> None:
    own.home.mkdir()
    (own.home / name).write_bytes(b"not a database at all" * 500)
    with pytest.raises(ServingError) as told:
        process.ensure_running(own)
    assert f"{own.home / name}: file is not a database. {remedy}" in str(told.value)
    assert "Traceback" not in process.log_file(own).read_text()
    (own.home / name).unlink()
    process.ensure_running(own)
    assert process.stop(own)
