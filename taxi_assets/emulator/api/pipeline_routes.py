"""Routes of `/api/2.0/pipelines`: how the syncs of online tables go, as Databricks tells it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query

from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime import pipelines
from taxi_assets.emulator.runtime.pipelines import Document, Pipelines

ERRORS_ALONE = "level='ERROR'"  # the one filter of events that is understood here


def routes(kept: Pipelines) -> APIRouter:
    """Look at pipelines, and start one more update."""
    router = APIRouter(prefix="/api/2.0/pipelines", tags=["pipelines"])

    @router.get("/{pipeline_id}")
    def get(pipeline_id: str) -> Document:
        return pipelines.shown(kept.get(pipeline_id))

    @router.get("/{pipeline_id}/updates")
    def updates(
        pipeline_id: str, max_results: int = Query(25, ge=1, le=100), page_token: str = ""
    ) -> dict[str, Any]:
        document = kept.get(pipeline_id)
        names = [""] + [update["update_id"] for update in document["updates"]]
        if page_token not in names:
            raise errors.invalid(
                "A page token is one that a list has answered", repr(page_token[:80]), "Leave it"
            )
        rest = document["updates"][names.index(page_token) :]
        page = rest[:max_results]
        found = {"updates": [pipelines.shown_update(document, update) for update in page]}
        more = {"next_page_token": page[-1]["update_id"]} if len(rest) > len(page) else {}
        return found | more

    @router.post("/{pipeline_id}/updates")
    def start(pipeline_id: str) -> dict[str, str]:
        return {"update_id": kept.start(pipeline_id)["updates"][0]["update_id"]}

    @router.get("/{pipeline_id}/updates/{update_id}")
    def get_update(pipeline_id: str, update_id: str) -> dict[str, Any]:
        document = kept.get(pipeline_id)
        for update in document["updates"]:
            if update["update_id"] == update_id:
                return {"update": pipelines.shown_update(document, update)}
        raise errors.missing("Update", update_id[:120], "Look at the pipeline's updates")

    @router.get("/{pipeline_id}/events")
    def events(
        pipeline_id: str,
        chosen: str = Query(ERRORS_ALONE, alias="filter"),
        max_results: int = Query(25, ge=1, le=250),
    ) -> dict[str, Any]:
        """Why updates failed: no other events are kept."""
        if chosen.replace(" ", "") != ERRORS_ALONE:
            raise errors.invalid("Events can be asked for errors alone", chosen[:80], ERRORS_ALONE)
        return {"events": pipelines.events(kept.get(pipeline_id))[:max_results]}

    return router
