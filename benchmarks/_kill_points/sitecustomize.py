"""Python runs this file first where its folder is on PYTHONPATH: it ends a process at one place.

TAXI_KILL_AT is `module:function`, TAXI_KILL_WHEN `before` or `after`, TAXI_KILL_CALL which call of
it (from 1). The file TAXI_KILL_MARK says that it happened; it happens once.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

MODULE, _, FUNCTION = os.environ.get("TAXI_KILL_AT", "").partition(":")


class _Finder:
    """Wraps the function as soon as its module has been run."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def run_and_wrap(module: ModuleType) -> None:
            run(module)
            _wrap(module)

        spec.loader.exec_module = run_and_wrap  # type: ignore[method-assign]
        return spec


def _wrap(module: ModuleType) -> None:
    *owners, name = FUNCTION.split(".")
    owner: Any = functools.reduce(getattr, owners, module)
    function, calls = getattr(owner, name), 0
    wanted = int(os.environ.get("TAXI_KILL_CALL", "1"))

    @functools.wraps(function)
    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != wanted:
            return function(*args, **kwargs)
        if os.environ["TAXI_KILL_WHEN"] == "before":
            _kill()
        found = function(*args, **kwargs)
        _kill()
        return found

    setattr(owner, name, killed)


def _kill() -> None:
    try:
        Path(os.environ["TAXI_KILL_MARK"]).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


if MODULE:
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
