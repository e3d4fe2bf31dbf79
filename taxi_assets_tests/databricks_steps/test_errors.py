"""Errors as people read them: across processes, and the reason of a request that failed."""

from __future__ import annotations

import pickle
import socket

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config
from databricks.sdk.errors import PermissionDenied

from databricks_steps.errors import TableError, reason


def test_an_error_of_a_launched_step_is_the_same_here() -> None:
    error = TableError("A table must exist", "trips", "Run the step trips")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == "A table must exist: trips. Run the step trips"
    assert (type(again), again.rule, again.value) == (TableError, "A table must exist", "trips")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one line\nand more"), "one line"),
        (PermissionDenied("no right\non it"), "no right"),
        (ValueError(), "ValueError"),
        (ValueError("  \n"), "ValueError"),
        (TimeoutError("the read timed out"), "the read timed out"),  # without a cause
        (OSError(2, "No such file or directory"), "[Errno 2] No such file or directory"),
    ],
)
def test_the_reason_is_the_first_line(error: Exception, said: str) -> None:
    assert reason(error) == said


def test_the_reason_of_a_request_tried_again_in_vain_is_the_last_attempts() -> None:
    with socket.socket() as taken:  # bound, and never listening: refused by the kernel
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        config = Config(host=address, token="dapi-anything", retry_timeout_seconds=1)
        client = WorkspaceClient(config=config)
        with pytest.raises(TimeoutError, match=r"^Timed out after 0:00:01$") as caught:
            client.current_user.me()
    assert reason(caught.value).endswith(
        "Failed to establish a new connection: [Errno 111] Connection refused"
    )
