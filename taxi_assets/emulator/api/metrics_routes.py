"""Routes that tell how an endpoint does: metrics, logs, and the summary behind the page."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, PlainTextResponse

from taxi_assets.emulator import errors
from taxi_assets.emulator.api.endpoint_routes import shown
from taxi_assets.emulator.runtime import metrics
from taxi_assets.emulator.runtime.endpoints import Endpoint, Endpoints
from taxi_assets.emulator.runtime.metrics import BOUNDS_MS
from taxi_assets.emulator.runtime.online_tables import OnlineTables

# One file without outside assets: it asks for the token, and shows the overview.
PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")


def _hashes(tag: str) -> str:
    """The content security policy's names of the inline blocks of one kind."""
    blocks = re.findall(f"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(block.encode()).digest()) for block in blocks)
    return " ".join(f"'sha256-{digest.decode()}'" for digest in digests)


# Nothing but the page's own script and style may run, and it may talk to nobody but its server.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def routes(endpoints: Endpoints, settle: Callable[[], None]) -> APIRouter:
    """What Databricks tells of an endpoint, too.

    `settle` brings the counters up to date with what this process has answered.
    """
    router = APIRouter(prefix="/api/2.0/serving-endpoints/{name}", tags=["serving endpoints"])

    @router.get("/metrics", response_class=PlainTextResponse)
    def export_metrics(name: str) -> str:
        """Counters and times in Prometheus' text form."""
        settle()
        return metrics.prometheus(name, endpoints.figures(name))

    @router.get("/served-models/{served}/logs")
    def logs(name: str, served: str) -> dict[str, str]:
        """What happened to the endpoint since the workspace started: updates and failures."""
        return {"logs": _log(endpoints.find(name), served)}

    return router


def own_routes(endpoints: Endpoints, tables: OnlineTables, settle: Callable[[], None]) -> APIRouter:
    """What Databricks has no route for: the page and what it shows; `settle` as in `routes`."""
    router = APIRouter(tags=["embedded only"])

    @router.get("/", response_class=HTMLResponse)
    def overview() -> HTMLResponse:
        """The page: versions, queries, times, feature ages, last refusals."""
        return HTMLResponse(PAGE, headers=PAGE_HEADERS)

    @router.get("/api/2.0/taxi/overview")
    def figures() -> dict[str, Any]:
        """What the page shows."""
        settle()
        return {
            "bounds_ms": BOUNDS_MS,
            "endpoints": [
                _overview(endpoint, endpoints.figures(endpoint.document["name"]))
                for endpoint in endpoints.all()
            ],
            "online_tables": tables.overview(),
        }

    return router


def _log(endpoint: Endpoint, served: str) -> str:
    configs = (endpoint.document.get(f"{which}config") for which in ("", "pending_", "failed_"))
    names = {entity["name"] for config in configs if config for entity in config["served_entities"]}
    if served not in names:
        raise errors.missing("Served model", served[:80], f"One of {sorted(names)}")
    return "\n".join(endpoint.events)


def _overview(endpoint: Endpoint, figures: dict[str, Any]) -> dict[str, Any]:
    document = shown(endpoint)
    return {
        "name": document["name"],
        "state": document["state"],
        "config": document.get("config"),
        "pending_config": document.get("pending_config"),
        **figures,
        "refusals": figures["refusals"][:20],
        "log": list(endpoint.events)[-20:],
    }
