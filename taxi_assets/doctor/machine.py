"""Checks of this machine: Python, the engine, memory, disk, ports, packages, timezone."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from databricks_steps.platforms.embedded import sail
from databricks_steps.platforms.embedded.session import OLDEST_JAVA, require_java
from databricks_steps.settings import EMBEDDED, LOOPBACK, REPOSITORY, SAIL, Settings, inherited
from taxi_assets.doctor.findings import Check, FaultError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GIB = 2**30
BESIDE_SPARK_GIB = 2.0  # for Python's workers, the endpoint and Dagster
LEAST_DISK_GIB = 2.0
LOCK = REPOSITORY / "requirements.lock"
MEMORY = Path("/proc/meminfo")


def checks(settings: Settings) -> Mapping[str, Check]:
    return {
        "python": python,
        "engine": lambda: engine(settings),
        "memory": lambda: memory(settings),
        "disk": lambda: disk(settings),
        **({"port": lambda: port(settings)} if settings.platform == EMBEDDED else {}),
        "packages": packages,
        "timezone": timezone,
    }


def python() -> str:
    """This Python against the versions that the package is made for."""
    from packaging.specifiers import SpecifierSet

    found = ".".join(map(str, sys.version_info[:3]))
    wanted = SpecifierSet(metadata("taxi-assets")["Requires-Python"])
    if found not in wanted:
        raise FaultError(f"Python {found}, not {wanted}", "Use another: PYTHON=… ./run_mlops.sh")
    return found


def engine(settings: Settings) -> str:
    """The engine can start: of Sail the wheel, of Spark in a JVM its Java."""
    if settings.in_jvm:
        require_java()
        return f"{settings.engine} in a JVM; Java {OLDEST_JAVA} or newer"
    if settings.spark == SAIL:
        return f"Sail {version('pysail')}, no JVM"
    return settings.engine


def memory(settings: Settings) -> str:
    """Available memory against what the engine may take, and the rest beside it."""
    most = sail.size(settings.driver_memory) / GIB
    if not MEMORY.exists():
        return f"the engine takes {most:.1f} GiB; this system does not tell what is available"
    lines = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024 / GIB
    if free < most + BESIDE_SPARK_GIB:
        raise FaultError(
            f"{free:.1f} GiB available, the engine may take {most:.1f} and the rest needs "
            f"{BESIDE_SPARK_GIB:.0f}",
            "Set TAXI_DRIVER_MEMORY lower, or end other programs",
            "warn",
        )
    return f"{free:.1f} GiB available, the engine may take {most:.1f}"


def disk(settings: Settings) -> str:
    place = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise FaultError(f"{place} cannot be written", "Set TAXI_HOME to a folder you may write to")
    free = shutil.disk_usage(place).free / GIB
    if free < LEAST_DISK_GIB:
        raise FaultError(f"{free:.1f} GiB free at {place}", "Free some, or set TAXI_HOME elsewhere")
    return f"{free:.1f} GiB free at {place}"


def port(settings: Settings) -> str:
    """TAXI_PORT is free, or this home's own workspace answers there."""
    from taxi_assets.emulator import process  # no part of the wheel

    if process.status(settings).running:
        return f"{settings.port}: this home's workspace"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, settings.port))
        except OSError as error:
            raise FaultError(
                f"{settings.port} is taken by another program", "Set TAXI_PORT to a free port"
            ) from error
    return f"{settings.port} is free"


def packages() -> str:
    """Installed packages against requirements.lock."""
    if not LOCK.exists():
        return "installed without requirements.lock"
    differing = [text for text in _differing() if text]
    if differing:
        shown = ", ".join(differing[:5]) + (" …" if len(differing) > 5 else "")
        raise FaultError(
            f"{len(differing)} differ: {shown}", "pip install -r requirements.lock", "warn"
        )
    return "as requirements.lock pins them"


def locked() -> list[Requirement]:
    """What requirements.lock pins, on all platforms; its hashes aside."""
    from packaging.requirements import Requirement

    lines = (line.partition("#")[0].strip(" \\") for line in LOCK.read_text("utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("--hash=")]


def _differing() -> Iterator[str]:
    for wanted in locked():
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield f"{wanted.name} is missing"
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name} {found} for {wanted.specifier}"


def timezone() -> str:
    """Steps go by UTC whatever the machine's zone; one that nobody knows breaks Java and logs."""
    name = inherited().get("TZ", "").lstrip(":")
    try:
        if name and not name.startswith("/"):
            ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise FaultError(f"TZ names no zone: {name!r}", "Unset TZ, or set it to UTC") from error
    return f"{name or 'the machine’s own'}; Spark's sessions are in UTC"
