"""Peers that need other packages than the lock's, each in a virtual environment of its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path


def python_with(package: str, folder: Path) -> str:
    """A Python that has the package, made in the folder."""
    print(f"installing {package} for this run", file=sys.stderr)
    venv.create(folder / package, with_pip=True)
    python = str(folder / package / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", package], check=True)
    return python


def compile_packages() -> None:
    """Bytecode of what is installed: else who runs first in a new environment pays for it."""
    packages = sysconfig.get_path("purelib")
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", packages]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
