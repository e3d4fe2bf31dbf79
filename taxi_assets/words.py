"""The one sentence of an error that Dagster has kept, as people read it."""

from __future__ import annotations

from typing import Any

OURS = ("databricks_steps.", "taxi_assets.")  # modules whose errors are written for people


def said(error: Any) -> str:
    """The words of an error: of the first of ours among its causes, else of the last of them."""
    message = "no reason given"
    while error is not None:
        message = error.message.strip() or message
        kind, _, text = message.partition(": ")
        if kind.startswith(OURS):
            return str(text)
        error = error.cause
    return str(message.splitlines()[0])
