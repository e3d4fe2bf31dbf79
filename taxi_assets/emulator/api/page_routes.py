"""The home's pages for a browser: an index of them, each of them, and the same as JSON."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sqlite3
import sys
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
# Other servers of this home: title, port unless told otherwise, and what starts it.
SERVERS = (
    ("Dagster: assets, runs and checks", 3000, "taxi-assets dev"),
    ("MLflow: runs, metrics, versions", 5000, "taxi-assets mlflow"),
)
_MONTH = re.compile(r"drift_report_(\d{4}-\d{2})\.html")


def routes(settings: Settings, secret: str) -> APIRouter:
    router = APIRouter(tags=["embedded only"])

    @router.post("/api/2.0/taxi/session")
    def session(response: Response) -> dict[str, str]:
        """A cookie that reads pages, for who came with the token or a page pass."""
        response.set_cookie(
            auth.COOKIE,
            auth.page_pass(secret),
            max_age=auth.PASS_SECONDS,
            httponly=True,
            samesite="strict",
        )
        return {"status": "ok"}

    @router.get("/api/2.0/taxi/pages")
    def index() -> dict[str, Any]:
        """Every page of the home, and the other servers that show it."""
        return {"pages": list(_pages(settings)), "servers": list(_servers())}

    @router.get("/pages/{name}.html", response_class=HTMLResponse)
    async def page(name: str) -> HTMLResponse:
        """A page; the report is made anew."""
        text = await _html(settings, name)
        back = BACK.format(json=f"/pages/{name}.json")
        return HTMLResponse(text.replace("<body>", f"<body>{back}", 1), headers=HEADERS)

    @router.get("/pages/{name}.json")
    async def twin(name: str) -> JSONResponse:
        """What the page tells, as JSON."""
        found = await _json(settings, name)
        return JSONResponse(json.loads(json.dumps(found, default=str)), headers=HEADERS)

    return router


def _pages(settings: Settings) -> Iterator[dict[str, str]]:
    """Title and address of each."""
    yield _page("Report: pipeline, models, drift, endpoint, time", "report")
    folder = settings.home / "reports"
    for file in sorted(folder.glob("drift_report_*.html"), reverse=True):
        if found := _MONTH.fullmatch(file.name):
            yield _page(f"Month {found[1]}: drift and live error", f"month-{found[1]}")
    for number in _versions(settings):
        yield _page(f"Model card of version {number}", f"model-{number}")
    if (folder / "backtest.html").exists():
        yield _page("Backtest: when to learn from a month", "backtest")


def _page(title: str, name: str) -> dict[str, str]:
    return {"title": title, "url": f"/pages/{name}.html", "json": f"/pages/{name}.json"}


def _versions(settings: Settings) -> list[str]:
    try:
        return registry.numbers(settings)
    except (TaxiError, sqlite3.Error):  # the report tells what is wrong with it
        return []


def _servers() -> Iterator[dict[str, Any]]:
    for title, port, command in SERVERS:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            runs = probe.connect_ex((LOOPBACK, port)) == 0
        yield {"title": title, "url": f"http://{LOOPBACK}:{port}", "runs": runs, "start": command}


async def _html(settings: Settings, name: str) -> str:
    kind, _, which = name.partition("-")
    reports = settings.home / "reports"
    if name == "report":
        file = Path((await _said(settings, "report")).strip())
    elif name == "backtest":
        file = reports / "backtest.html"
    elif kind == "month":
        file = reports / f"drift_report_{which}.html"
    elif kind == "model" and which in _versions(settings):
        version = registry.numbered(settings, which)
        return await asyncio.to_thread(registry.read_text, settings, version, model_card.FILE)
    else:
        raise errors.missing("Page", name[:80], "See /api/2.0/taxi/pages")
    if file.parent != reports or not file.is_file():
        raise errors.missing("Page", name[:80], "See /api/2.0/taxi/pages")
    return await asyncio.to_thread(file.read_text, encoding="utf-8")


async def _json(settings: Settings, name: str) -> Any:
    kind, _, which = name.partition("-")
    if name == "report":
        return json.loads(await _said(settings, "status", "--json"))
    if name == "backtest" and (file := settings.home / "reports" / "backtest.json").is_file():
        return json.loads(await asyncio.to_thread(file.read_text, encoding="utf-8"))
    if kind == "model" and which in _versions(settings):
        version = registry.numbered(settings, which)
        verdicts = registry.verdicts(settings, version)
        return {**asdict(version), "verdicts": [asdict(each) for each in verdicts]}
    if kind == "month" and re.fullmatch(r"\d{4}-\d{2}", which):
        tables = EmbeddedPlatform(settings).tables
        names = (schemas.DRIFT_REPORT.name, schemas.LIVE_PERFORMANCE.name)
        return await asyncio.to_thread(lambda: {n: tables.records(n, [which]) for n in names})
    raise errors.missing("Page", name[:80], "See /api/2.0/taxi/pages")


async def _said(settings: Settings, *words: str) -> str:
    """What a command of this home prints; it runs beside, for it brings much with it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "taxi_assets.cli", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**inherited(), "TAXI_HOME": str(settings.home), "TAXI_PORT": str(settings.port)},
    )
    out, said = await process.communicate()
    if process.returncode:
        told = said.decode(errors="replace").strip().splitlines()
        raise errors.ApiError(
            "INTERNAL_ERROR",
            f"taxi-assets {' '.join(words)} must succeed",
            told[-1][:300] if told else f"exit code {process.returncode}",
            "Run it by hand",
        )
    return out.decode()
