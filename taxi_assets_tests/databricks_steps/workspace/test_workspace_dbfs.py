"""The DBFS root by the official SDK: files in blocks, what is refused, a task that reads them."""

from __future__ import annotations

import base64
import io
import os
from typing import Any

import pytest
from databricks.sdk.errors import (
    BadRequest,
    InvalidParameterValue,
    NotFound,
    ResourceAlreadyExists,
)
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.jobs import SparkPythonTask, SubmitTask

from databricks_steps.workspace import dbfs
from taxi_assets_tests.databricks_steps.workspace.homes import Workspace

pytestmark = pytest.mark.long  # a task with a JVM


def test_files_are_written_in_blocks_read_listed_and_removed(workspace: Workspace) -> None:
    api = workspace.client.dbfs
    content = os.urandom(3_000_000)
    api.upload("dbfs:/staging/run/large", io.BytesIO(content))
    assert api.download("dbfs:/staging/run/large").read() == content
    with pytest.raises(ResourceAlreadyExists, match="Overwrite it"):
        api.upload("/staging/run/large", io.BytesIO(b"other"))
    api.upload("/staging/run/large", io.BytesIO(b"other"), overwrite=True)
    assert api.download("/staging/run/large").read() == b"other"
    api.upload("/staging/run/empty", io.BytesIO(b""))
    assert api.download("/staging/run/empty").read() == b""
    found = {info.path: (info.is_dir, info.file_size) for info in api.list("/staging/run")}
    assert found == {"/staging/run/empty": (False, 0), "/staging/run/large": (False, 5)}
    assert [(info.path, info.is_dir) for info in api.list("dbfs:/")] == [("/staging", True)]
    with pytest.raises(BadRequest, match="A folder that is removed is empty"):
        workspace.client.api_client.do("POST", "/api/2.0/dbfs/delete", body={"path": "/staging"})
    api.delete("/staging", recursive=True)
    assert not api.exists("/staging")
    with pytest.raises(NotFound):
        list(api.list("/staging"))


def test_a_file_is_there_when_its_stream_is_closed_and_whole(workspace: Workspace) -> None:
    api = workspace.client.dbfs
    handle = api.create("/one/file").handle
    assert handle is not None
    api.add_block(handle, base64.b64encode(b"half").decode())
    assert not api.exists("/one/file")
    api.close(handle)
    assert api.download("/one/file").read() == b"half"
    for again in (lambda: api.close(handle), lambda: api.add_block(handle, "")):
        with pytest.raises(NotFound, match="Stream does not exist"):
            again()
    first = api.create("/one/given-up").handle
    assert first is not None
    for number in range(dbfs.STREAMS):
        api.create(f"/one/{number}")
    with pytest.raises(NotFound, match="Stream does not exist"):
        api.close(first)
    assert len([*(workspace.settings.home / "dbfs" / "one").iterdir()]) == 1 + dbfs.STREAMS


@pytest.mark.parametrize("path", ["relative", "/../token", "/a/./b", "/a\nb", "/" + 3000 * "x"])
def test_a_path_outside_of_the_root_is_refused(workspace: Workspace, path: str) -> None:
    with pytest.raises(InvalidParameterValue, match="A path of DBFS"):
        workspace.client.dbfs.create(path)
    with pytest.raises(InvalidParameterValue, match="A path of DBFS"):
        workspace.client.dbfs.get_status(path)


def test_what_no_file_can_be_is_refused(workspace: Workspace) -> None:
    api, large = workspace.client.dbfs, dbfs.BLOCK + 1
    api.upload("/plain/file", io.BytesIO(b"x"))
    handle = api.create("/plain/other").handle
    assert handle is not None
    refusals: dict[str, Any] = {
        "A file lies in folders": lambda: api.create("/plain/file/inside"),
        "A new file has a new name": lambda: api.create("/plain", overwrite=True),
        "What is read is a file": lambda: api.read("/plain"),
        "A read is at most": lambda: api.read("/plain/file", length=large),
        "A block is base64": lambda: api.add_block(handle, "?"),
        "A block is at most": lambda: api.add_block(
            handle, base64.b64encode(bytes(large)).decode()
        ),
    }
    for message, call in refusals.items():
        with pytest.raises(DatabricksError, match=message):
            call()


def test_a_task_is_read_from_dbfs_and_finds_its_files_mounted(workspace: Workspace) -> None:
    api = workspace.client.dbfs
    main = "import sys\nfrom pathlib import Path\nPath(sys.argv[1]).write_text('seen')"
    api.upload("dbfs:/task/main.py", io.BytesIO(main.encode()))
    task = SparkPythonTask("dbfs:/task/main.py", ["/dbfs/task/out"])
    submitted = SubmitTask("one", spark_python_task=task, existing_cluster_id="any")
    workspace.client.jobs.submit(tasks=[submitted]).result()
    assert api.download("/task/out").read() == b"seen"
