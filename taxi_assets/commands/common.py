"""What every command shares: errors as one line, and the target of this machine."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sqlite3
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from databricks_steps.errors import SettingsError, TaxiError
from databricks_steps.interfaces import TableLog
from databricks_steps.settings import DATABRICKS, REPOSITORY
from taxi_assets.resources.targets import TARGETS, Target, quieten_libraries, target

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
_FULL = (errno.ENOSPC, errno.EDQUOT)
# SQLite's words for its codes CORRUPT, NOTADB, FULL, IOERR, CANTOPEN and READONLY; Python 3.10 does
# not tell the codes.
_UNUSABLE = re.compile(r"malformed|not a database|is full|I/O error|unable to open|readonly")
EMULATOR = "taxi_assets.emulator"  # in no wheel: it stands in for what a cluster is
Command = TypeVar("Command", bound=Callable[..., Any])
TARGET = click.option(
    "--target", "target_name", type=click.Choice(TARGETS), help="Default: TAXI_TARGET."
)


def one_line_errors(command: Command) -> Command:
    """Expected errors as one line and exit code 1; anything else is a bug and shows its trace."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        _speak_to_any_terminal()
        try:
            return command(*args, **kwargs)
        except TaxiError as error:
            told: object = error
        except ModuleNotFoundError as error:
            if error.name != EMULATOR:
                raise
            told = f"This installation has no emulator: {error}. Run the command in a checkout"
        except OSError as error:
            told = _of_home(error)
            if told is None:
                raise
        except Exception as error:
            told = _of_database(error)
            if told is None:
                raise
        click.secho(f"error: {told}", err=True, fg="red")
        sys.exit(1)

    return guarded  # type: ignore[return-value]


def _of_home(error: OSError) -> SettingsError | None:
    """A home that cannot be written, or a full disk, as an error for people; None of all else."""
    home = target().settings.home
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else None
    ours = path is not None and home in (path, *path.parents, *path.absolute().parents)
    # What is missing in a home that is there is a bug of ours.
    refused = error.errno in _REFUSED or (error.errno == errno.ENOENT and not home.exists())
    if not (ours and refused) and error.errno not in _FULL:
        return None
    return SettingsError(
        "TAXI_HOME must be a folder that can be written",
        f"{path or home}: {error.strerror}",
        "Make room or change its permissions, or set TAXI_HOME to another folder",
    )


def _of_database(error: Exception) -> SettingsError | None:
    """A database in SQLite that cannot be used, as an error for people; None of all else.

    A wrong statement is a bug, and one that is locked is whole.
    """
    cause = getattr(error, "orig", error)  # SQLAlchemy's holds SQLite's
    if not isinstance(cause, sqlite3.DatabaseError) or not _UNUSABLE.search(str(cause)):
        return None
    return SettingsError(
        "The databases of TAXI_HOME must be whole",
        f"{target().settings.home}: {cause}",
        "taxi-assets doctor --deep says which one is damaged; restore a backup",
    )


def _speak_to_any_terminal() -> None:
    """What a terminal cannot show (² in ASCII) is written as `\\xb2`, in place of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def named(name: str | None = None) -> Target:
    """A target by name, or the environment's, before the libraries it needs are imported."""
    found = target(name)
    quieten_libraries(found.settings)
    return found


def embedded() -> Target:
    """The environment's target, for what only this machine's tables and workspace can do.

    Raises:
        SettingsError: it is a Databricks target.
    """
    found = named()
    if found.settings.platform == DATABRICKS:
        raise SettingsError(
            "This command works on the tables and the workspace of this machine",
            f"target {found.name}",
            "Unset TAXI_TARGET; docs/databricks.md says what to do there",
        )
    return found


def answering(name: str | None = None) -> Target:
    """A target by name, or the environment's; Databricks' workspace has told that it is there.

    Else MLflow and the SDK would wait for it for minutes.

    Raises:
        SettingsError: Databricks' workspace does not answer, or not to these credentials.
    """
    from taxi_assets.resources.workspace import Workspace

    found = named(name)
    if found.settings.platform == DATABRICKS:
        Workspace(found.settings).user()
    return found


def table_log(where: Target) -> TableLog:
    """The tables of a target for what can be had of them without Spark here."""
    if where.settings.platform == DATABRICKS:
        from taxi_assets.resources.remote import RemoteTables

        return RemoteTables(where)
    from taxi_assets import status

    return status.logs(where.settings)


def become(command: list[str]) -> NoReturn:
    """Go on as another program: who ends this process means the server, not who started it."""
    # A script's shell starts what it puts in the background with SIGINT ignored; Dagster would then
    # ignore SIGTERM, too, and nothing but SIGKILL would end it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606 - no shell is needed


def absolute(source: str) -> str:
    """A path as an absolute one: steps may run in another folder. Other sources as they are."""
    try:
        path = Path(source).expanduser()
        here = path.exists() or source.startswith((".", "/", "~"))
        return str(path.resolve()) if here else source
    except (OSError, RuntimeError, ValueError):  # told by who opens it
        return source


def root() -> Path:
    return REPOSITORY if (REPOSITORY / "workspace.yaml").exists() else Path.cwd()
