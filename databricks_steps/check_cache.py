"""Figures that checks measured, kept under the fingerprint of what they measured.

A cache and nothing more: where it is missing, checks measure again. Figures are kept, not verdicts:
limits and dates apply to them anew each time. Figures of what failed are not kept.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from databricks_steps.settings import Settings

_LOG = logging.getLogger(__name__)
FOLDER = "check_cache"
Figures = dict[str, Any]  # as JSON


class CheckCache:
    """The kept figures of one asset's checks: a JSON file in `TAXI_HOME/check_cache/`.

    With `force` nothing that was kept is believed.
    """

    def __init__(self, settings: Settings, asset: str, force: bool = False) -> None:
        self._file = settings.home / FOLDER / f"{asset}.json"
        self._force = force

    def measured(
        self,
        check: str,
        fingerprints: Mapping[str, int],
        measure: Callable[[Sequence[str]], Mapping[str, Figures]],
        sound: Callable[[Figures], bool] = lambda _: True,
    ) -> dict[str, Figures]:
        """Month → figures; `measure` is asked for the months whose fingerprint is another one.

        Figures that are not `sound` are measured again the next time.
        """
        found = self.kept(check, fingerprints)
        stale = [month for month in fingerprints if month not in found]
        if stale:
            # As they will be read: sets, tuples and dates would be others by then.
            new: dict[str, Figures] = json.loads(json.dumps(dict(measure(stale))))
            self.keep(check, fingerprints, {m: new[m] for m in stale if sound(new[m])})
            found |= new
        return {month: found[month] for month in fingerprints}

    def one(
        self,
        check: str,
        fingerprint: int,
        measure: Callable[[], Figures],
        sound: Callable[[Figures], bool] = lambda _: True,
    ) -> Figures:
        """The same for what is not cut by months."""
        return self.measured(check, {"": fingerprint}, lambda _: {"": measure()}, sound)[""]

    def kept(self, check: str, fingerprints: Mapping[str, int]) -> dict[str, Figures]:
        """Month → figures, of those of the months that were measured with this fingerprint."""
        known = {} if self._force else _object(self._read().get(check))
        found = {}
        for month, fingerprint in fingerprints.items():
            row = _object(known.get(month))
            if row.get("fingerprint") == fingerprint and isinstance(row.get("figures"), dict):
                found[month] = row["figures"]
        return found

    def keep(
        self, check: str, fingerprints: Mapping[str, int], figures: Mapping[str, Figures]
    ) -> None:
        """Keep figures (month → figures), in one step: a reader sees all of them or none."""
        if not figures:
            return
        known = self._read()
        known[check] = _object(known.get(check)) | {
            m: {"fingerprint": fingerprints[m], "figures": each} for m, each in figures.items()
        }
        part = self._file.with_suffix(f".{os.getpid()}.part")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(known), encoding="utf-8")
            part.replace(self._file)
        except OSError as error:  # a step does not fail for want of it: it measures again
            _LOG.warning("figures of checks are not kept, so they are measured again: %s", error)

    def _read(self) -> dict[str, Any]:
        try:
            return _object(json.loads(self._file.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            return {}


def _object(value: Any) -> dict[str, Any]:
    """A JSON object as it is; an empty one of anything else: what was kept has another shape."""
    return value if isinstance(value, dict) else {}
