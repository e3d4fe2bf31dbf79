"""The home's pages for a browser: an index of them, each of them, and the same as JSON."""

from __future__ import annotations

import html
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse, JSONResponse

from databricks_steps import schemas
from databricks_steps.errors import TaxiError
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import LOOPBACK, Settings, inherited
from databricks_steps.training import model_card, registry
from taxi_assets import dev_lock
from taxi_assets.emulator import auth, errors

BACK = '<p><a href="/">All pages</a> · <a href="{json}">this as JSON</a></p>'
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
MLFLOW_PORT = 5000  # unless told otherwise
REPORT, MODEL = "report", "model-"
_MONTH = re.compile(r"drift_report_(\d{4}-\d{2})")
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)
_HEAD = 1_000  # characters of a page among which its title is
_COMMAND = threading.Lock()  # one at a time: each is a process that imports much


def routes(settings: Settings, secret: str) -> APIRouter:
    router = APIRouter(tags=["embedded only"])

    @router.post("/api/2.0/taxi/session")
    def session(response: Response) -> dict[str, str]:
        """A cookie that reads pages, for who came with the token or a page pass."""
        response.set_cookie(
            auth.cookie(settings.port),
            auth.page_pass(secret),
            max_age=auth.PASS_SECONDS,
            httponly=True,
            samesite="strict",
        )
        return {"status": "ok"}

    @router.get("/api/2.0/taxi/pages")
    def index() -> dict[str, Any]:
        """Every page of the home, and the other servers that show it."""
        return {"pages": list(_pages(settings)), "servers": list(_servers(settings))}

    @router.get("/pages/{name}.html", response_class=HTMLResponse)
    def page(name: str) -> HTMLResponse:
        """A page; the report is made anew."""
        back = BACK.format(json=f"/pages/{name}.json")
        text = _html(settings, name).replace("<body>", f"<body>{back}", 1)
        return HTMLResponse(text, headers=HEADERS)

    @router.get("/pages/{name}.json")
    def twin(name: str) -> JSONResponse:
        """What the page tells, as JSON."""
        found = json.dumps(_json(settings, name), default=str)
        return JSONResponse(json.loads(found), headers=HEADERS)

    return router


def _pages(settings: Settings) -> Iterator[dict[str, str]]:
    """Title and address of each: the report, the newest months first, the models."""
    yield _page("Report: pipeline, models, drift, endpoint, time", REPORT)
    for name, file in _written(settings).items():
        with file.open(encoding="utf-8") as text:
            title = _TITLE.search(text.read(_HEAD))
        yield _page(html.unescape(title[1]) if title else name, name)
    for number in _versions(settings):
        yield _page(f"Model card of version {number}", f"{MODEL}{number}")


def _page(title: str, name: str) -> dict[str, str]:
    return {"title": title, "url": f"/pages/{name}.html", "json": f"/pages/{name}.json"}


def _written(settings: Settings) -> dict[str, Path]:
    """Name → file of the pages that steps and commands have left, but for the report."""
    files = sorted((settings.home / "reports").glob("*.html"), reverse=True)
    return {file.stem: file for file in files if file.stem != REPORT}


def _versions(settings: Settings) -> list[str]:
    try:
        return registry.numbers(settings)
    except TaxiError:  # the report tells what is wrong with it
        return []


def _servers(settings: Settings) -> Iterator[dict[str, Any]]:
    """Others that show this home: title, address, whether it runs, and what starts it."""
    _, dagster = dev_lock.holder(settings) or ("", "")
    with socket.socket() as probe:
        probe.settimeout(0.2)
        mlflow = probe.connect_ex((LOOPBACK, MLFLOW_PORT)) == 0
    for title, command, runs, url in (
        ("Dagster: assets, runs and checks", "taxi-assets dev", bool(dagster), dagster),
        (
            "MLflow: runs, metrics, versions",
            "taxi-assets mlflow",
            mlflow,
            f"http://{LOOPBACK}:{MLFLOW_PORT}",
        ),
    ):
        yield {"title": title, "url": url, "runs": runs, "start": command}


def _html(settings: Settings, name: str) -> str:
    if name == REPORT:
        return Path(_said(settings, "report").strip()).read_text(encoding="utf-8")
    if (number := name.removeprefix(MODEL)) != name and number in _versions(settings):
        return registry.read_text(settings, registry.numbered(settings, number), model_card.FILE)
    if (file := _written(settings).get(name)) is not None:
        return file.read_text(encoding="utf-8")
    raise _missing(name)


def _json(settings: Settings, name: str) -> Any:
    if name == REPORT:
        return json.loads(_said(settings, "status", "--json"))
    if (number := name.removeprefix(MODEL)) != name and number in _versions(settings):
        version = registry.numbered(settings, number)
        verdicts = [asdict(each) for each in registry.verdicts(settings, version)]
        return {**asdict(version), "verdicts": verdicts}
    if (file := _written(settings).get(name)) is None:
        raise _missing(name)
    if (month := _MONTH.fullmatch(name)) is not None:
        tables = EmbeddedPlatform(settings).tables
        names = (schemas.DRIFT_REPORT.name, schemas.LIVE_PERFORMANCE.name)
        return {name: tables.records(name, [month[1]]) for name in names}
    return json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))


def _missing(name: str) -> errors.ApiError:
    return errors.missing("Page", name[:80], "See /api/2.0/taxi/pages")


def _said(settings: Settings, *words: str) -> str:
    """What a command of this home prints; it runs beside, for it brings much with it."""
    own = {"TAXI_HOME": str(settings.home), "TAXI_PORT": str(settings.port)}
    command = [sys.executable, "-m", "taxi_assets.cli", *words]
    with _COMMAND:
        done = subprocess.run(
            command, env={**inherited(), **own}, capture_output=True, text=True, check=False
        )
    if done.returncode:
        told = done.stderr.strip().splitlines()
        raise errors.ApiError(
            "INTERNAL_ERROR",
            f"taxi-assets {' '.join(words)} must succeed",
            told[-1][:300] if told else f"exit code {done.returncode}",
            "Run it by hand",
        )
    return done.stdout
