"""A small real run of the command line that many tests look at, and how to make others."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from databricks_steps import network
from databricks_steps.settings import LOOPBACK, Settings
from databricks_steps.trips.demo import demo_trips
from taxi_assets.emulator import process
from taxi_assets_tests.waiting import Process

MONTHS = ("2022-01", "2022-02", "2022-03")
ROWS = 8_000
OF_TESTS = re.compile("|".join((r"CI$", r"GITHUB_", r"PYTEST_", *network.SILENT)))


@dataclass(frozen=True)
class Home:
    """A TAXI_HOME with a port of its own, and the command line on it."""

    path: Path
    port: int

    @property
    def settings(self) -> Settings:
        return replace(Settings(), home=self.path, port=self.port)

    @property
    def cache(self) -> Path:
        """Where libraries keep what is the user's, if they are told."""
        return self.path.with_name("cache")

    @property
    def environment(self) -> dict[str, str]:
        """A user's: no library finds in it that it is tested, or was told to be silent."""
        ours = {"TAXI_HOME": str(self.path), "TAXI_PORT": str(self.port)}
        told = {name: text for name, text in os.environ.items() if not OF_TESTS.match(name)}
        return {**told, **ours}

    def start(self, *arguments: str, **environment: str) -> Process[str]:
        return Process(
            [sys.executable, "-m", "taxi_assets.cli", *arguments],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        with self.start(*arguments, **environment) as process:
            out, err = process.communicate(timeout=3_000)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def invoke(
        self, *arguments: str, stdin: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """The same in this process, which has imported what most of a command's time goes for."""
        from click.testing import CliRunner

        from taxi_assets.cli import main

        env = {**self.environment, **environment}
        done = CliRunner().invoke(main, arguments, input=stdin, env=env)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    def captured(self) -> int:
        """Requests in the payload table; what was asked a moment ago is still with the server."""
        from deltalake import DeltaTable

        from taxi_assets.emulator.runtime import capture

        capture.flush(self.settings)
        table = self.settings.table_path(self.settings.payload_table)
        return DeltaTable(str(table)).count() if table.exists() else 0

    def last_run(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "last_run.json").read_text())
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small months as files of TLC's form, and two that cannot be read."""
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("source")
    for month in MONTHS:
        pq.write_table(demo_trips(month, ROWS), folder / f"green_tripdata_{month}.parquet")
    whole = (folder / "green_tripdata_2022-01.parquet").read_bytes()
    (folder / "truncated_2022-01.parquet").write_bytes(whole[: len(whole) // 2])
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "pointer_2022-02.parquet").write_text(pointer)
    return folder


@contextmanager
def making(folders: pytest.TempPathFactory) -> Iterator[Callable[[str], Home]]:
    """Makes homes; whatever serves from one is stopped at the end."""
    made: list[Home] = []

    def make(name: str) -> Home:
        made.append(Home(folders.mktemp(name) / "home", free_port()))
        return made[-1]

    yield make
    for home in made:
        process.stop(home.settings)
        shutil.rmtree(home.path, ignore_errors=True)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Home]]:
    """Homes of a module: what serves idles at a cost, so it ends with its tests."""
    with making(tmp_path_factory) as make:
        yield make


@pytest.fixture(scope="session")
def no_java(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a machine without Java: whoever asks for one leaves the file `asked` behind."""
    folder = tmp_path_factory.mktemp("no_java")
    (folder / "java").write_text('#!/bin/sh\ntouch "$(dirname "$0")/asked"\nexit 127\n')
    (folder / "java").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "JAVA_HOME": ""}


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy of HTTP and HTTPS that notes what it is asked for, and passes nothing on."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__((LOOPBACK, 0), self._note)

    def _note(self, request: socket.socket, *_: object) -> None:
        request.settimeout(5)
        with suppress(OSError):
            self.asked.append(request.recv(1_000).decode(errors="replace").partition("\r\n")[0])

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a machine behind it."""
        address = f"http://{LOOPBACK}:{self.server_address[1]}"
        names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "grpc_proxy")
        return dict.fromkeys(names, address) | dict.fromkeys(("no_proxy", "NO_PROXY"), "")


@pytest.fixture(scope="session")
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def first_run(
    tmp_path_factory: pytest.TempPathFactory,
    small_source: Path,
    no_java: dict[str, str],
    proxy: Proxy,
) -> Iterator[tuple[Home, subprocess.CompletedProcess[str]]]:
    """The pipeline on the small source, run once for all tests that only look.

    On a machine without Java and behind a proxy.
    """
    with making(tmp_path_factory) as make:
        home = make("first")
        variables = {**no_java, **proxy.environment, "XDG_CACHE_HOME": str(home.cache)}
        done = home.call("run", "--source", str(small_source), **variables)
        assert done.returncode == 0, done.stderr + done.stdout
        yield home, done


def table_rows(home: Home, name: str, without: Sequence[str] = ()) -> set[tuple[Any, ...]]:
    """All rows of a table, read by delta-rs alone."""
    from deltalake import DeltaTable

    found = DeltaTable(str(home.settings.table_path(name))).to_pyarrow_table()
    kept = [column for column in sorted(found.column_names) if column not in without]
    columns = [found.column(column).to_pylist() for column in kept]
    return {tuple(map(str, values)) for values in zip(*columns, strict=True)}
