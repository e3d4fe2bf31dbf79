"""What leaves the machine when a step is launched: the two packages, and nobody's secret."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest_run import MONTHS
from faulty_proxy import (
    CREATE,
    SUBMIT,
    AnsweredError,
    FaultyProxy,
    Request,
    behind_proxy,
    orchestrator,
)
from test_wheel import packaged

from databricks_steps.settings import REPOSITORY
from taxi_assets.resources import staging
from taxi_assets.resources.staging import PACKAGES

pytestmark = pytest.mark.slow

HEX = "0123456789abcdef"  # values are put together here: no scanner of the repository finds them
FORMS = {
    "a Databricks token": rb"\bd(?:api|kea|ose|sapi)[0-9a-f]{32}",
    "a JSON web token": rb"eyJ[A-Za-z0-9_-]{20,}\.",
    "an AWS key": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a GitHub token": rb"\bgh[opsu]_[A-Za-z0-9]{36}",
    "a Slack webhook": rb"hooks\.slack\.com/services/\w+",
    "a bearer token": rb"[Bb]earer [A-Za-z0-9_.-]{20,}",
}
EXAMPLES = {
    "a Databricks token": "dapi" + HEX * 2,
    "a JSON web token": "eyJ" + "hbGciOiJSUzI1NiIsInR5cCI6" + ".e30.c2ln",
    "an AWS key": "AKIA" + "IOSFODNN7EXAMPLE",
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "a GitHub token": "ghp" + "_" + "x7" * 18,
    "a Slack webhook": "https://hooks.slack.com/" + "services/T0TAXI/B0TAXI/x7x7",
    "a bearer token": "Bearer " + "x7-" * 14,
}
PLANTED = {  # in the orchestrator's environment
    "DATABRICKS_TOKEN": "dapi" + HEX[::-1] * 2,
    "DATABRICKS_CLIENT_SECRET": "dose" + HEX * 2,
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/" + "services/T0TAXI/B0TAXI/" + "y9" * 12,
    "AWS_ACCESS_KEY_ID": "AKIA" + "TAXITAXITAXITAXI",
    "SMTP_PASSWORD": "seven yellow cabs at noon",
}
STRAYS = {  # beside and among the packages of the checkout
    "databricks_steps/.env": f"DATABRICKS_TOKEN={EXAMPLES['a Databricks token']}",
    "databricks_steps/resources/job.yml": "resources: {}",
    "databricks_steps/__pycache__/steps.cpython-311.pyc": "compiled",
    "taxi_assets/.idea/workspace.xml": "<project/>",
    "taxi_assets_tests/test_steps.py": "def test_steps(): pass",
    "benchmarks/speed.py": "print(1)",
    ".venv/lib/python3/site-packages/dagster/__init__.py": "",
    ".git/config": "[core]",
    "notes.py": "print(1)",
}


@dataclass(frozen=True)
class Launched:
    """Two launches from a checkout with strays, one that succeeds and one that is refused."""

    checkout: Path
    home: Path
    token: str
    expected: set[str]
    exchanged: tuple[tuple[Request, bytes], ...]
    said: tuple[str, ...]

    def staged(self, name: str) -> bytes:
        """The first file whose name ends so as it arrived on the volume."""
        return next(
            request.body
            for request, _ in self.exchanged
            if request.method == "PUT" and request.path.endswith(name)
        )

    def everything(self) -> Iterator[tuple[str, bytes]]:
        """What was sent, answered, said, and written to the home, but for the token's own file."""
        for request, answer in self.exchanged:
            yield f"sent by {request.method} {request.path}", request.body
            yield f"answered to {request.method} {request.path}", answer
        for said in self.said:
            yield "the orchestrator's output", said.encode()
        for file in sorted(self.home.rglob("*")):
            if file.is_file() and file != self.home / "token":
                yield str(file.relative_to(self.home)), file.read_bytes()
                if file.suffix == ".db":
                    yield from stored(file)


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, small_source: Path) -> Iterator[Launched]:
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copy(REPOSITORY / "pyproject.toml", checkout)
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, checkout / package)
    expected = packaged(checkout)
    for name, text in STRAYS.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    source = small_source / f"green_tripdata_{MONTHS[0]}.parquet"
    with behind_proxy(tmp_path_factory.mktemp("staged"), source) as (home, proxy, environment):
        said = [*launch(checkout, environment), *refused_launch(checkout, environment, proxy)]
        token = home.settings.token_file.read_text().strip()
        yield Launched(checkout, home.path, token, expected, tuple(proxy.exchanged), tuple(said))


def launch(checkout: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    # The original leaves out whatever has `pytest` or `logs` in its path, that of TMPDIR too.
    temporary = checkout.parent / "logs"
    temporary.mkdir(exist_ok=True)
    own = {**environment, **PLANTED, "TMPDIR": str(temporary)}
    with orchestrator(MONTHS[0], own, folder=checkout) as process:
        out, err = process.communicate(timeout=300)
    assert "said: " in out, err[-3000:]
    return out, err


def refused_launch(
    checkout: Path, environment: Mapping[str, str], proxy: FaultyProxy
) -> tuple[str, str]:
    """A launch that ends with the SDK's word on the credentials it used."""

    def fault(request: Request) -> None:
        if request.method == "PUT":
            raise AnsweredError(401, "UNAUTHENTICATED", "Token is expired")

    proxy.fault = fault
    return launch(checkout, environment)


def stored(file: Path) -> Iterator[tuple[str, bytes]]:
    """Every text and blob of a SQLite file, those of its write-ahead log among them."""
    with closing(sqlite3.connect(file)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in names:
            for row in database.execute(f'SELECT * FROM "{name}"'):
                for value in row:
                    if isinstance(value, (str, bytes)):
                        content = value.encode() if isinstance(value, str) else value
                        yield f"{file.name}:{name}", content


def unpacked(label: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The content, and what is in it where it is a zip, gzipped or deflated."""
    yield label, content
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from unpacked(f"{label}:{name}", archive.read(name))
    elif content.startswith(b"\x1f\x8b"):
        with suppress(EOFError, zlib.error):  # read while it was written: it came again
            yield from unpacked(f"{label}:unzipped", gzip.decompress(content))
    elif content.startswith(b"x"):
        with suppress(zlib.error):
            yield from unpacked(f"{label}:inflated", zlib.decompress(content))


def secrets(contents: Iterable[tuple[str, bytes]], known: Mapping[str, str]) -> set[str]:
    """Where one of the known values is, or anything of the form of a secret, and which."""
    forms = {kind: re.compile(form) for kind, form in FORMS.items()}
    forms |= {name: re.compile(re.escape(value.encode())) for name, value in known.items()}
    return {
        f"{place}: {kind}"
        for label, content in contents
        for place, plain in unpacked(label, content)
        for kind, form in forms.items()
        if form.search(plain)
    }


@pytest.mark.long  # a launched step
def test_the_wheel_holds_the_modules_and_data_of_the_two_packages_alone(launched: Launched) -> None:
    archive = zipfile.ZipFile(io.BytesIO(launched.staged(".whl")))
    names = [name for name in archive.namelist() if ".dist-info/" not in name]
    print(*sorted(names), sep="\n")
    assert set(names) == launched.expected
    assert len(names) == len(launched.expected)
    assert {name.split("/")[0] for name in names} == set(PACKAGES)
    for name in names:
        assert archive.read(name) == (launched.checkout / name).read_bytes(), name


@pytest.mark.long  # a launched step
def test_the_wheel_is_enough_to_make_the_definitions(launched: Launched, tmp_path: Path) -> None:
    zipfile.ZipFile(io.BytesIO(launched.staged(".whl"))).extractall(tmp_path)
    code = (
        "import taxi_assets.definitions, databricks_steps.steps, sys;"
        "from databricks_steps.platforms.embedded.session import LOG4J;"
        "print(LOG4J.exists(), *(m.__file__ for name, m in sorted(sys.modules.items())"
        f" if name.split('.')[0] in {PACKAGES} and m.__file__))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    log4j, *modules = done.stdout.split()
    assert log4j == "True"
    assert [name for name in modules if not name.startswith(f"{tmp_path}/")] == []
    without = (  # as where the project is not installed from its checkout
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)];"
        "from taxi_assets.cli import main; main(['stop'])"
    )
    asked = [sys.executable, "-W", "ignore", "-c", without]
    stopped = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (stopped.returncode, stopped.stderr.count("\n")) == (1, 1)
    assert stopped.stderr.startswith("error: This installation has no emulator: ")


@pytest.mark.long  # a launched step
def test_files_and_wheel_are_staged_for_a_step_and_one_run_is_submitted(launched: Launched) -> None:
    put = [request.path for request, _ in launched.exchanged if request.method == "PUT"]
    wheel, *files = sorted(
        {path.rsplit("/", 1)[-1] for path in put}, key=lambda n: (".whl" not in n, n)
    )
    assert re.fullmatch(r"taxi_assets-[0-9.]+\+[0-9a-f]{12}-py3-none-any\.whl", unquote(wheel))
    assert files == [
        "code.zip",
        "config.pkl",
        "databricks_step_main.py",
        "step_run_ref.pkl",
    ]
    (submitted,) = [request for request, _ in launched.exchanged if request.path == SUBMIT]
    (task,) = json.loads(submitted.body)["tasks"]
    (made,) = [request for request, _ in launched.exchanged if request.path == CREATE]
    assert "existing_cluster_id" in task
    variables = json.loads(made.body)["spark_env_vars"]
    assert set(variables) & set(PLANTED) == set()
    assert {name for name in variables if re.search("TOKEN|SECRET|PASSWORD|KEY", name)} == set()


@pytest.mark.long  # a launched step
def test_no_secret_travels_or_is_written_down(launched: Launched) -> None:
    out, _, refusal, _ = launched.said
    assert "said: success" in out
    assert "Token is expired" in refusal
    places = [label for label, _ in launched.everything()]
    for needed in (".whl", "step_run_ref.pkl", SUBMIT, "logs/runs/", "events.pkl", "index.db"):
        assert [place for place in places if needed in place], needed
    known = {**PLANTED, "the workspace's token": launched.token}
    assert secrets(launched.everything(), known) == set()


def test_the_search_for_secrets_finds_what_is_there(tmp_path: Path) -> None:
    assert set(EXAMPLES) == set(FORMS)
    for kind, value in EXAMPLES.items():
        assert secrets([("plain", f'{{"a": "{value}"}}'.encode())], {}) >= {f"plain: {kind}"}
    token = EXAMPLES["a Databricks token"].encode()
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("steps.py", b"TOKEN = '" + token + b"'")
    packed = {
        "zip": inner.getvalue(),
        "gzip": gzip.compress(token),
        "deflated": zlib.compress(token),
    }
    database = tmp_path / "index.db"
    with closing(sqlite3.connect(database)) as made:
        made.execute("CREATE TABLE snapshots (id INTEGER, body BLOB)")
        made.execute("INSERT INTO snapshots VALUES (1, ?)", [zlib.compress(token)])
        made.execute("INSERT INTO snapshots VALUES (2, 'seven yellow cabs at noon')")
        made.commit()
    assert secrets([*packed.items(), *stored(database)], PLANTED) == {
        "zip:steps.py: a Databricks token",
        "gzip:unzipped: a Databricks token",
        "deflated:inflated: a Databricks token",
        "index.db:snapshots:inflated: a Databricks token",
        "index.db:snapshots: SMTP_PASSWORD",
    }


def test_an_installer_takes_the_wheel_and_the_same_code_makes_the_same_one(tmp_path: Path) -> None:
    name, content = staging.wheel()
    assert staging.wheel() == (name, content)
    (tmp_path / name).write_bytes(content)
    site = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--no-deps",
        "--offline",
        "--target",
        site,
    ]
    done = subprocess.run([*command, tmp_path / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = distributions(path=[str(site)])
    assert (found.name, found.version) == ("taxi-assets", name.split("-")[1])
    assert {script.name: script.value for script in found.entry_points} == {
        "databricks-steps": "databricks_steps.__main__:task",
        "taxi-call": "taxi_assets.resources.remote_calls:task",
    }
    assert (site / "databricks_steps" / "steps.py").exists()
