"""A finding, and how a check tells a fault: a sentence each, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from databricks_steps.errors import TaxiError, reason

Level = Literal["ok", "warn", "fail"]
Check = Callable[[], str]  # answers what it found, or raises `FaultError` or a `TaxiError`


@dataclass(frozen=True)
class Finding:
    """What one check found; `fix` is empty where it is ok."""

    check: str
    level: Level
    found: str
    fix: str = ""

    def __str__(self) -> str:
        said = f"{self.level:<5} {self.check:<18} {self.found}"
        return f"{said}. {self.fix}" if self.fix else said


class FaultError(Exception):
    """What is wrong and what to do; a warning where runs go on all the same."""

    def __init__(self, found: str, fix: str, level: Level = "fail") -> None:
        self.found, self.fix, self.level = found, fix, level
        super().__init__(found)


def look(checks: Mapping[str, Check]) -> list[Finding]:
    """The finding of every check; one that breaks is a finding as well."""
    return [_finding(name, check) for name, check in checks.items()]


def _finding(name: str, check: Check) -> Finding:
    try:
        return Finding(name, "ok", check())
    except FaultError as fault:
        return Finding(name, fault.level, fault.found, fault.fix)
    except TaxiError as error:
        return Finding(name, "fail", f"{error.rule}: {error.value}", error.remedy)
    except Exception as error:  # the others must be looked at all the same
        found = f"{type(error).__name__}: {reason(error)[:300]}"
        return Finding(name, "fail", found, "See docs/doctor.md")
