"""The pages that people open, as a real browser shows them."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from browser import BROKEN, Page
from conftest_run import MONTHS, Home, free_port

from taxi_assets.emulator import auth

pytestmark = pytest.mark.slow  # browser, servers, a whole run
SECONDS = 600
CHAMPION = {"alias": "champion", "version": "1"}


def test_the_workspace_shows_endpoint_and_online_tables_to_who_has_the_token(
    first_run: Any, page: Page
) -> None:
    home, _ = first_run
    token = auth.token(home.settings.token_file)
    page.open(f"{home.settings.host}/#token={token}")
    page.shows("READY")
    shown = page.html()
    assert f'data-endpoint="{home.settings.endpoint}"' in shown
    assert re.search(r'<span class="good">READY</span>', shown)
    for name in ("pickup_features", "dropoff_features"):
        assert f'title="{home.settings.table(name)}_online"' in shown
    assert home.settings.registered_model in shown
    assert token not in shown


def test_without_the_token_the_workspace_shows_nothing(first_run: Any, page: Page) -> None:
    home, _ = first_run
    page.open(f"{home.settings.host}/#token=wrong")
    page.shows("That is not the token, or the address is too old.")
    assert 'data-endpoint="' not in page.html()


def test_the_index_leads_to_every_page_and_each_leads_back(first_run: Any, page: Page) -> None:
    link = signing_link(first_run[0])
    host, _, given = link.partition("/#pass=")
    page.open(link)
    page.shows("READY")
    shown = page.links()
    cookie = {"Cookie": signed_in(host, given)}
    index = json.loads(asked(f"{host}/api/2.0/taxi/pages", cookie)[1])
    months = [f"/pages/drift_report_{MONTHS[-1]}.html"]
    assert [each["url"] for each in index["pages"]] == [
        "/pages/report.html",
        *months,
        "/pages/model-1.html",
    ]
    for each in index["pages"]:
        assert host + each["url"] in shown
        code, twin = asked(host + each["json"], cookie)
        assert (code, bool(json.loads(twin))) == (200, True)
    absent = ("drift_report_2021-01", "model-9", "model-", "backtest", "..%2Flast_run", "..")
    for name in absent:
        for kind in ("html", "json"):
            assert asked(f"{host}/pages/{name}.{kind}", cookie)[0] == 404


def test_every_page_is_readable_on_a_telephone_and_in_the_dark(first_run: Any, page: Page) -> None:
    """Each link of the index, followed: pictures load, nothing is too wide or too faint."""
    host = first_run[0].settings.host
    page.open(signing_link(first_run[0]))
    page.shows("READY")
    ours = [link for link in page.links() if link.startswith(f"{host}/pages/")]
    assert len(ours) == 6  # three, each with its JSON
    for address in (f"{host}/", *(link for link in ours if link.endswith(".html"))):
        page.open(address)
        if address == f"{host}/":
            page.shows("READY")
        else:
            assert f"{host}/" in page.links()
            assert page.evaluate("document.images.length") > 0
        assert page.evaluate(BROKEN) == []
        for width in (1400, 420):
            page.look(width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        for dark in (False, True):
            page.look(1400, dark=dark)
            assert page.faint() == [], address


def test_a_page_pass_reads_pages_and_does_nothing_else(first_run: Any) -> None:
    home, _ = first_run
    host, secret = home.settings.host, auth.token(home.settings.token_file)
    given, name = auth.page_pass(secret), auth.cookie(home.port)
    bearer, cookie = {"Authorization": f"Bearer {given}"}, {"Cookie": f"{name}={given}"}
    page = f"{host}/pages/model-1.html"
    assert [asked(page, headers)[0] for headers in ({}, bearer, cookie)] == [401, 200, 200]
    for path in ("/api/2.2/jobs/list", "/api/2.0/serving-endpoints"):
        assert [asked(host + path, headers)[0] for headers in (bearer, cookie)] == [403, 401]
    session = f"{host}/api/2.0/taxi/session"
    assert [asked(session, each, b"")[0] for each in ({}, cookie, bearer)] == [401, 401, 200]
    until, _, signed = given.partition(".")
    old = str(int(until) - auth.PASS_SECONDS - 1)
    other = {"Cookie": f"{auth.cookie(home.port + 1)}={given}"}  # of a home on another port
    assert asked(page, other)[0] == 401
    for forged in (f"{int(until) + 1}.{signed}", f"{old}.{auth._signed(secret, old)}", ".", secret):
        assert asked(page, {"Cookie": f"{name}={forged}"})[0] == 401


def signing_link(home: Home) -> str:
    """The address that `serve` prints: it signs a browser in."""
    served = home.call("serve")
    assert served.returncode == 0, served.stderr
    return next(line.split()[0] for line in served.stdout.splitlines() if "#pass=" in line)


def signed_in(host: str, given: str) -> str:
    """The cookie that a page pass is given for."""
    headers = {"Authorization": f"Bearer {given}"}
    request = urllib.request.Request(f"{host}/api/2.0/taxi/session", b"", headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        cookie = str(answer.headers["Set-Cookie"])
    assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
    return cookie.partition(";")[0]


def asked(url: str, headers: dict[str, str], body: bytes | None = None) -> tuple[int, str]:
    try:
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_report_shows_its_sections_and_pictures(first_run: Any, page: Page) -> None:
    home, _ = first_run
    done = home.call("report")
    assert done.returncode == 0, done.stderr
    page.open(Path(done.stdout.strip()).as_uri())
    shown = page.html()
    for name in ("Pipeline", "Models", "Drift and live error", "Endpoint", "Time and memory"):
        assert f"<h2>{name}</h2>" in shown
    assert page.evaluate("document.images.length") > 0
    assert page.evaluate(BROKEN) == []


@pytest.mark.long  # MLflow's server takes a minute to start beside other tests
def test_mlflows_ui_shows_the_runs_and_the_model_of_the_home(
    first_run: Any, page: Page, tmp_path: Path
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
            page.open(f"{host}/#/models")
            page.shows(name)
            assert [line for line in beside(home.settings.mlflow_uri) if "huey" in line] == []
        finally:
            server.terminate()  # itself, not its session: nothing goes on without it
            server.wait(30)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    model = found["registered_model"]
    assert model["aliases"] == [{"alias": "candidate", "version": "1"}, CHAMPION]
    (newest,) = model["latest_versions"]
    assert (newest["version"], newest["status"]) == ("1", "READY")


def beside(address: str) -> list[str]:
    """The command line of each process that is told of an address (Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            told = [(process / name).read_bytes() for name in ("cmdline", "environ")]
            if address.encode() in b"".join(told):
                found.append(told[0].decode(errors="replace"))
    return found


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
