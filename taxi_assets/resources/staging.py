"""Where launched steps are staged, a Unity Catalog volume, and what travels.

Calls that fail for a moment are tried again.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Any

import requests
from dagster_databricks.databricks import DatabricksClient
from dagster_databricks.types import DatabricksRunLifeCycleState as LifeCycle
from dagster_databricks.types import DatabricksRunResultState as Result
from dagster_databricks.types import DatabricksRunState
from databricks.sdk.errors import BadRequest, NotFound
from databricks.sdk.errors.base import DatabricksError

from databricks_steps.settings import REPOSITORY, STAGING_VOLUME, Settings
from taxi_assets.deployment.retries import patiently

if TYPE_CHECKING:
    import dagster as dg
    from databricks.sdk import WorkspaceClient

_LOG = logging.getLogger(__name__)
FORGOTTEN = timedelta(days=7)  # files of a launch that nobody was left to remove
PACKAGES = ("databricks_steps", "taxi_assets")
LEFT_OUT = ("__pycache__", "emulator")  # the latter stands in for what the cluster is
DISTRIBUTION = "taxi-assets"
ENTRY_POINTS = (
    "databricks-steps = databricks_steps.__main__:task",
    "taxi-call = taxi_assets.resources.remote_calls:task",
)
RUNS = "runs"  # the folder in which each run has its own
WHEELS = "wheels"  # of the code of launches
CALLS = "calls"  # in which each has a folder


def wheel() -> tuple[str, bytes]:
    """Name and content of a wheel of this project's packages, the same for the same code.

    A cluster installs it on every node: functions that Python workers run are pickled by name. Its
    version tells one code from another. The bundle's files describe jobs, and what is hidden is
    somebody's own: neither is code.
    """
    files = dict(_code())
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + files[name] for name in files))
    released = version(DISTRIBUTION)
    name, number = DISTRIBUTION.replace("-", "_"), f"{released}+{digest.hexdigest()[:12]}"
    about = f"{name}-{number}.dist-info"
    texts = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {number}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: taxi-assets\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
        f"{about}/entry_points.txt": "\n".join(["[console_scripts]", *ENTRY_POINTS, ""]),
    }
    files |= {path: text.encode() for path, text in texts.items()}
    record = [f"{path},{_hash(content)},{len(content)}" for path, content in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*record, f"{about}/RECORD,,", ""]).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text, zipfile.ZIP_DEFLATED)
    return f"{name}-{number}-py3-none-any.whl", content.getvalue()


def _code() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        for file in sorted((REPOSITORY / package).rglob("*")):
            name = file.relative_to(REPOSITORY)
            left_out = any(part.startswith(".") or part in LEFT_OUT for part in name.parts)
            if file.is_file() and not left_out and file.suffix not in (".pyc", ".yml"):
                yield name.as_posix(), file.read_bytes()


def _hash(content: bytes) -> str:
    """As a wheel's RECORD writes it."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"


def empty_zip() -> bytes:
    """What the launcher's main file wants to unpack: the code comes with the wheel."""
    content = io.BytesIO()
    zipfile.ZipFile(content, "w").close()
    return content.getvalue()


class Staging(DatabricksClient):
    """The launcher's client: files on the volume, below `prefix`, and the states of runs."""

    def __init__(self, client: WorkspaceClient, settings: Settings) -> None:
        # The project's own client: the original's would take a proxy and credentials that the
        # environment has for other workspaces.
        self._workspace_client = client
        volume = f"/Volumes/{settings.catalog}/{settings.schema}/{STAGING_VOLUME}"
        self.prefix, self.wheels = f"{volume}/{RUNS}", f"{volume}/{WHEELS}"
        self.calls = f"{volume}/{CALLS}"
        self._files = client.files

    def put_file(
        self, file_obj: IO[Any], dbfs_path: str, overwrite: bool = False, block_size: int = 0
    ) -> None:
        content = file_obj.read()
        patiently(lambda: self._write(dbfs_path, content, overwrite))

    def read_file(self, dbfs_path: str, block_size: int = 0) -> bytes:
        try:
            return patiently(lambda: self._read(dbfs_path))
        except NotFound:  # the step has not written it yet
            return b""

    def get_run_state(self, databricks_run_id: int) -> DatabricksRunState:
        """As the launcher takes it, which knows four results and lets a skipped run succeed.

        For it a run is over that is TERMINATING, whose result is told once its cluster is cleaned.
        """
        state = patiently(lambda: self.workspace_client.jobs.get_run(databricks_run_id)).state
        if state is None or state.life_cycle_state is None:  # nobody knows: it is asked again
            return DatabricksRunState(None, None, None)
        life = LifeCycle(state.life_cycle_state.value)
        result, message = state.result_state and state.result_state.value, state.state_message
        if life is LifeCycle.TERMINATING and result is None:
            life = LifeCycle.RUNNING
        if life is LifeCycle.SKIPPED or (result and result not in Result.__members__):
            life, message = LifeCycle.INTERNAL_ERROR, f"{result or life.value}: {message}"
            result = Result.FAILED.value
        return DatabricksRunState(life, Result(result) if result else None, message)

    def _write(self, path: str, content: bytes, overwrite: bool) -> None:
        self._files.upload(path, io.BytesIO(content), overwrite=overwrite)

    def _read(self, path: str) -> bytes:
        contents = self._files.download(path).contents
        return b"" if contents is None else bytes(contents.read())

    def folders(self, path: str) -> Iterator[tuple[str, int]]:
        """Name and time of what is in a folder: milliseconds since 1970, 0 where nobody knows.

        Raises:
            NotFound: there is no such folder.
        """
        for entry in self._files.list_directory_contents(path):
            yield str(entry.name), entry.last_modified or 0

    def put_wheel(self) -> str:
        """The path of the wheel of this code, which is there now, and as new as this launch."""
        name, content = wheel()
        path = f"{self.wheels}/{name}"
        self.put_file(io.BytesIO(content), path, overwrite=True)
        return path

    def remove_file(self, path: str) -> None:
        with suppress(NotFound):  # the answer to an earlier try was lost
            patiently(lambda: self._files.delete(path))

    def remove_folder(self, folder: str) -> None:
        for entry in patiently(lambda: list(self._files.list_directory_contents(folder))):
            if entry.is_directory:
                self.remove_folder(str(entry.path))
            else:
                self.remove_file(str(entry.path))
        patiently(lambda: self._files.delete_directory(folder))

    def remove(self, run: str, step: str) -> None:
        """Leave nothing of a step behind, and no folder of a run that has no other step."""
        self.remove_folder(f"{self.prefix}/{run}/{step}")
        with suppress(BadRequest):  # another step of the run is still there
            self._files.delete_directory(f"{self.prefix}/{run}")

    def clean(self, run: str, step: str) -> None:
        """The same, where what is left is a few files that a later sweep removes."""
        try:
            self.remove(run, step)
        except (DatabricksError, requests.RequestException, TimeoutError) as error:
            _LOG.warning("%s/%s could not be removed: %s", run, step, error)

    def sweep(self, instance: dg.DagsterInstance) -> None:
        """Remove what others have left: runs of this instance that are over, or long forgotten.

        A run that ends late, or whose orchestrator was killed, has nobody to remove its files.
        """
        oldest = (time.time() - FORGOTTEN.total_seconds()) * 1000
        try:
            for run, at in self.folders(self.prefix):
                known = instance.get_run_by_id(run)
                over = 0 < at < oldest if known is None else known.is_finished
                if over:
                    for step, _ in list(self.folders(f"{self.prefix}/{run}")):
                        self.clean(run, step)
            for wheel, at in list(self.folders(self.wheels)):
                if 0 < at < oldest:
                    self.remove_file(f"{self.wheels}/{wheel}")
            for call, at in list(self.folders(self.calls)):
                if 0 < at < oldest:
                    self.remove_folder(f"{self.calls}/{call}")
        except NotFound:  # the first launch, or call, of all
            return
        except (DatabricksError, requests.RequestException, TimeoutError) as error:
            _LOG.warning("%s could not be swept: %s", self.prefix, error)
