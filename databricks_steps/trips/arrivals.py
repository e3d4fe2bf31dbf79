"""The ledger of arrivals: what became of each entry of each source, and why; table `arrivals`.

Rows follow from what lies in a source and from what `raw_trips` was made of, so that whoever looks
writes the same. An entry whose content or place is gone stays as `replaced`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from databricks_steps import schemas
from databricks_steps.interfaces import Commit, Tables, Verdict
from databricks_steps.trips.demo import PREFIX
from databricks_steps.trips.files import TripFile
from databricks_steps.trips.sources import SHOWN, Source

NAME = "arrivals"
LOADED, REFUSED, PASSED, REPLACED = "loaded", "refused", "passed over", "replaced"
READABLE = "arrivals.readable"
Row = dict[str, Any]
_KEY = schemas.ARRIVALS.primary_key


def rows_of(found: Source, stale: Collection[str]) -> list[Row]:
    """A row for each entry of a source; files of the `stale` months are not loaded yet."""
    rows = [_row(found.text, file, REFUSED if not file.passed else PASSED) for file in found.unread]
    for file in found.files:
        waiting = sorted(set(file.months) & set(stale))
        if waiting:
            problem = f"it waits for a run of {', '.join(waiting)}"
            file = file.refused("waits", problem, "Run these months", passed=True)  # noqa: PLW2901
        rows.append(_row(found.text, file, PASSED if waiting else LOADED))
    return sorted(rows, key=lambda row: str(row["name"]))


def record(tables: Tables, found: Source, stale: Collection[str]) -> Commit | None:
    """Write what became of a source's entries; None where the ledger says so already."""
    now = datetime.now(timezone.utc)
    new = rows_of(found, stale)
    return tables.amend(NAME, lambda before: amended(before, new, found, now))


def amended(before: Sequence[Row], new: Sequence[Row], found: Source, now: datetime) -> list[Row]:
    """The ledger with the rows of a source in the place of those it had."""
    kept = {_key(row): row for row in before}
    present = {_key(row) for row in new}
    loaded = [row for row in new if row["status"] == LOADED]
    for key, row in kept.items():
        if key in present or row["status"] == REPLACED:
            continue
        if row["source"] != found.text:
            changed = _overtaken(row, loaded)
        else:
            reason = _gone(row, new, found)
            changed = {"status": REPLACED, "reason": reason} if reason else {}
        if changed:
            kept[key] = {**row, "cause": "", "remedy": "", "seen_at": now, **changed}
    for row in new:
        known = kept.get(_key(row))
        same = known is not None and {**known, "seen_at": None} == {**row, "seen_at": None}
        if not same:
            kept[_key(row)] = {**row, "seen_at": now}
    return sorted(kept.values(), key=lambda row: [str(row[name]) for name in _KEY])


def _gone(row: Row, new: Sequence[Row], found: Source) -> str:
    """Why an entry of the source has gone, or an empty text."""
    same = [each for each in new if each["name"] == row["name"]]
    if row["status"] == LOADED and same and _is_next(row, same):
        return ""  # its trips are still there
    if same:
        return "another content came under the same name"
    # Without the whole source it may be of a month that was not asked for.
    return "it lies there no more" if found.whole else ""


def _is_next(row: Row, same: Sequence[Row]) -> bool:
    """Whether what came under a name is a delivery of other months, and no correction."""
    months = {month for each in same for month in each["months"]}
    return bool(months) and months.isdisjoint(row["months"])


def _overtaken(row: Row, loaded: Sequence[Row]) -> Row:
    """What changes of another source's entry as its months are made from these; a copy stays."""
    if row["status"] != LOADED or not loaded:
        return {}
    files = {(each["name"], each["hash"]) for each in loaded}
    if (row["name"], row["hash"]) in files:
        return {}
    is_real = not any(str(each["name"]).startswith(PREFIX) for each in loaded)
    if is_real and str(row["name"]).startswith(PREFIX):
        return {"status": REPLACED, "reason": "real trips came in"}
    source = loaded[0]["source"]
    made = {month for each in loaded for month in each["months"]}
    left = [month for month in row["months"] if month not in made]
    if len(left) == len(row["months"]):
        return {}
    reason = f"{', '.join(sorted({*row['months']} & made))} was made from {source}"
    return {"months": left, "reason": reason} if left else {"status": REPLACED, "reason": reason}


def left_behind(before: Sequence[Row], found: Source) -> list[str]:
    """Months whose trips a file brought that has been corrected and holds none of them any more."""
    held = {month for file in found.files for month in file.months}
    left: set[str] = set()
    for file in found.files:
        for row in before:
            ours = row["source"] == found.text and row["name"] == file.name
            if ours and row["status"] == LOADED and row["hash"] != file.hash:
                old = {*row["months"]}
                left |= old - held if old & {*file.months} else set()
    return sorted(left)


def readable(found: Source) -> Verdict:
    """Every file that should hold trips can be read; what is passed over is told, too."""
    refused = found.refused
    passed = Counter(file.cause for file in found.unread if file.passed)
    figures = {
        "refused": {file.name: f"{file.problem}. {file.remedy}" for file in refused},
        "passed_over": {file.name: file.problem for file in found.unread if file.passed},
    }
    if refused:
        told = "; ".join(f"{file.name}: {file.problem}" for file in refused[:SHOWN])
        more = f"; and {len(refused) - SHOWN:,} more" if len(refused) > SHOWN else ""
        reason = f"{len(refused):,} of {_entries(found):,} entries are refused: {told}{more}"
        return Verdict(READABLE, False, reason, figures, "warn")
    copies = f", {passed['copy']:,} of them copies" if passed["copy"] else ""
    also = f"; {sum(passed.values()):,} passed over{copies}" if passed else ""
    reason = f"All {len(found.files):,} files of trips can be read{also}"
    return Verdict(READABLE, True, reason, figures, "warn")


def by_cause(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Cause → the rows that are refused for it, in the order of causes and names."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["cause"], row["source"], row["name"])):
        if row["status"] == REFUSED:
            found.setdefault(row["cause"], []).append(row)
    return found


def counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Status → how many entries have it."""
    found = Counter(str(row["status"]) for row in rows)
    return {name: found[name] for name in (LOADED, REFUSED, PASSED, REPLACED) if found[name]}


def _entries(found: Source) -> int:
    return len(found.files) + len(found.unread)


def _row(source: str, file: TripFile, status: str) -> Row:
    return {
        "source": source,
        "name": file.name,
        "hash": file.hash,
        "status": status,
        "cause": file.cause,
        "reason": file.problem or _waits(file),
        "remedy": file.remedy,
        "bytes": file.size,
        "rows": file.rows,
        "months": list(file.months),
        "seen_at": None,
    }


def _waits(file: TripFile) -> str:
    return f"its trips of {file.waiting} are read once the month is over" if file.waiting else ""


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in _KEY)
