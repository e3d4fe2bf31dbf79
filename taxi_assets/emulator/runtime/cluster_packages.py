"""The Python environment of a cluster: its runtime's packages and the libraries a task names.

A virtual environment of links to what is installed here. The project itself is not in it, on the
driver as little as in Python workers, unless a library brings it.
"""

from __future__ import annotations

import logging
import re
import shutil
import venv
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from taxi_assets.emulator import errors

_LOG = logging.getLogger(__name__)
# What a runtime brings; the last two stand for its tables and, without a JVM, its engine.
RUNTIME = (
    *("databricks-sdk", "matplotlib", "numpy", "pandas", "pyarrow", "pyspark[connect]"),
    *("scikit-learn", "scipy", "setuptools"),
    *("deltalake", "pysail"),
)
# Licensed for use with Databricks alone: it is there, and not here.
THERE_ALONE = ("databricks-feature-engineering",)
_WHEEL = re.compile(r"[A-Za-z0-9_.]+-[A-Za-z0-9_.!+]+-py3-none-any\.whl")


def libraries(dependencies: Iterable[str]) -> list[dict[str, Any]]:
    """The dependencies of a serverless environment, lines of pip, as libraries of a cluster."""
    return [
        {"whl": line} if line.startswith("/") else {"pypi": {"package": line}}
        for line in dependencies
    ]


def made(folder: Path, libraries: Iterable[dict[str, Any]], wheels: Iterable[Path]) -> Path:
    """The interpreter of an environment made anew in the folder.

    Raises:
        ApiError: a library names no package that can be had.
    """
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    named = [str(library["pypi"]["package"]) for library in libraries if "pypi" in library]
    for each in _distributions([*RUNTIME, *named]):
        _link(each, site)
    for wheel in wheels:
        _unpack(wheel, site)
    return folder / "bin" / "python"


def _distributions(requirements: Iterable[str]) -> Iterator[Distribution]:
    """What these need, each once, as installed here."""
    waiting, seen = [_requirement(text) for text in requirements], set[tuple[str, str]]()
    while waiting:
        wanted = waiting.pop()
        extras = {"", *wanted.extras} - {extra for name, extra in seen if name == wanted.name}
        if wanted.name in THERE_ALONE or not extras:
            continue
        seen |= {(wanted.name, extra) for extra in extras}
        found = _installed(wanted)
        if "" in extras:
            yield found
        for text in found.requires or ():
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)


def _requirement(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise errors.invalid("Library installation failed", error, "Correct it") from error


def _installed(wanted: Requirement) -> Distribution:
    try:
        found = distribution(wanted.name)
    except PackageNotFoundError as error:
        raise errors.invalid(
            "Library installation failed", f"{wanted}: not installed here", "Install it first"
        ) from error
    if not wanted.specifier.contains(found.version, prereleases=True):
        # A cluster's Python, and so its lock, may be another than this machine's.
        _LOG.info("%s stands for %s", found.version, wanted)
    return found


def _link(found: Distribution, site: Path) -> None:
    for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
        if not name.endswith(".pth") and not (site / name).exists():
            (site / name).symlink_to(str(found.locate_file(name)))


def _unpack(wheel: Path, site: Path) -> None:
    """A pure wheel is a zip of what it installs."""
    if not _WHEEL.fullmatch(wheel.name) or not zipfile.is_zipfile(wheel):
        raise errors.invalid("A library is a pure wheel", wheel.name, "Build it again")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
