"""Calls to a workspace that is busy, broken or away for a moment are made again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

Result = TypeVar("Result")
PATIENCE = timedelta(minutes=2)


def patiently(call: Callable[[], Result]) -> Result:
    """The call's result; a workspace that is busy, broken or away for a moment is asked again.

    Raises:
        TimeoutError: it was so for `PATIENCE`; the cause is its last error.
        DatabricksError: the workspace refuses.
    """
    import requests
    from databricks.sdk.errors import (
        DeadlineExceeded,
        InternalError,
        TemporarilyUnavailable,
        TooManyRequests,
    )
    from databricks.sdk.retries import retried

    passing: list[type[BaseException]] = [
        *(InternalError, TemporarilyUnavailable, TooManyRequests, DeadlineExceeded),
        *(requests.ConnectionError, requests.Timeout, TimeoutError),
    ]
    return cast("Result", retried(on=passing, timeout=PATIENCE)(call)())
