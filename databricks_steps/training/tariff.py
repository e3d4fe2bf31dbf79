"""The tariff audit: what metered trips cost a mile and a minute, and whether that has changed.

A taximeter adds what the miles and minutes of a trip cost to a base fare, in whole ticks. With the
duration known its fares are exact to half a dollar, so a new tariff shows in a month's own trips,
whatever a model says of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from databricks_steps.inference.scorer import BANDS
from databricks_steps.interfaces import Verdict
from databricks_steps.schemas import LABEL
from databricks_steps.trips.kinds import METERED, kind

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from pyspark.sql import DataFrame

    Array = np.ndarray[Any, np.dtype[Any]]

LEVEL = 0.03  # share of the fare; months of one tariff differ by at most 0.006, a new one by 0.33
LEAST = 100  # metered trips of a month; fewer tell nothing
LEAST_OF_DAY = 20
LEAST_DAYS = 3  # that a change must last to be one
METERED_OTHERWISE = 1.5  # times its own error that a tariff misses by where meters count otherwise
TICK_SHARE = 0.9  # of the fares of one tariff that are whole ticks; 0.96 to 1.00 by month
MOST = 60_000  # metered trips of a month that are looked at
LEAST_OF_CELL = 20  # trips of a distance and hour, in both months; fewer tell nothing of traffic
_TICKS = range(100, 4, -5)  # cents, the largest first: what is whole in fifties is so in fives
_STEPS = 50
_NEAREST = 1e-3  # dollars: a residual below weighs no more, else its weight were infinite


@dataclass(frozen=True)
class Tariff:
    """A month's tariff as its metered trips show it, in dollars; `error` is the mean absolute one.

    `tick` is the step of the meter, `tick_share` the share of the fares that are whole steps above
    the most frequent one; 0 where no step fits.
    """

    base: float
    per_mile: float
    per_minute: float
    error: float
    tick: float
    tick_share: float
    trips: int

    def fares(self, miles: Array, minutes: Array) -> Array:
        """What trips cost by it: arrays (trips,) → dollars (trips,)."""
        fares: Array = self.base + self.per_mile * miles + self.per_minute * minutes
        return fares

    def level(self, miles: Array, minutes: Array, fares: Array) -> float:
        """How much dearer the median trip is than by this tariff, as a share: 0.33 for a third."""
        import numpy as np

        return float(np.median(fares / self.fares(miles, minutes))) - 1


def fitted(miles: Array, minutes: Array, fares: Array) -> Tariff | None:
    """The tariff of metered trips, arrays (trips,); None of fewer than `LEAST`.

    Least absolute deviations, so that a tenth of odd fares moves nothing, by iteratively
    reweighted least squares (Schlossmacher, 1973).
    """
    import numpy as np

    if len(fares) < LEAST:
        return None
    terms = np.column_stack([np.ones(len(fares)), miles, minutes])
    found = np.linalg.lstsq(terms, fares, rcond=None)[0]
    for _ in range(_STEPS):
        before = found
        weighted = terms / np.maximum(np.abs(fares - terms @ found), _NEAREST)[:, None]
        found = np.linalg.lstsq(terms.T @ weighted, weighted.T @ fares, rcond=None)[0]
        if np.abs(found - before).max() < _NEAREST:
            break
    error = float(np.abs(fares - terms @ found).mean())
    base, per_mile, per_minute = map(float, found)
    return Tariff(base, per_mile, per_minute, error, *_tick(fares), len(fares))


def _tick(fares: Array) -> tuple[float, float]:
    """The meter's step in dollars, and the share of the fares that are whole steps; or 0 and 0."""
    import numpy as np

    cents = np.rint(fares * 100).astype(np.int64)
    for tick in _TICKS:
        share = float(np.bincount(cents % tick).max() / len(cents))
        if share >= TICK_SHARE:
            return tick / 100, share
    return 0.0, 0.0


def began(
    before: Tariff, days: Sequence[str], miles: Array, minutes: Array, fares: Array
) -> str | None:
    """The first day from which on every day costs another fare than by `before`; None of none.

    `days` (trips,) are those of the pickups, YYYY-MM-DD; days of few trips are passed over.
    """
    import numpy as np

    named = np.asarray(days)
    found = None
    for day in sorted(set(days)):
        own = named == day
        if own.sum() < LEAST_OF_DAY:
            continue
        changed = abs(before.level(miles[own], minutes[own], fares[own])) > LEVEL
        found = (found or day) if changed else None
    return found


@dataclass(frozen=True)
class Audit:
    """The tariff of a month beside that of the newest month a champion has learned from.

    `level` is how much dearer the median trip is, as a share, `since` the day from which on it is;
    `by_before` the mean absolute error of the other month's tariff on this one's trips. `slower` is
    how much longer trips of the same distance and hour take, as a share. `error` is the champion's
    mean absolute error on metered trips it has not learned from, `in_traffic` what it were if trips
    took as long as they did in the other month; dollars.
    """

    month: str
    before_month: str
    now: Tariff | None = None
    before: Tariff | None = None
    level: float = 0.0
    since: str = ""
    by_before: float = 0.0
    slower: float = 0.0
    error: float | None = None
    in_traffic: float | None = None

    @property
    def changed(self) -> bool:
        return abs(self.level) > LEVEL

    @property
    def meters_otherwise(self) -> bool:
        """Whether the other month's tariff misses more of these fares than of its own."""
        return self.before is not None and self.by_before > METERED_OTHERWISE * self.before.error

    @property
    def explained(self) -> float | None:
        """The share of the champion's error on metered trips that is the other traffic's."""
        if not self.error or self.in_traffic is None:
            return None
        return 1 - self.in_traffic / self.error

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Audit:
        tariffs = {n: Tariff(**raw[n]) if raw[n] else None for n in ("now", "before")}
        return cls(**{**raw, **tariffs})


def metered(trips: DataFrame, month: str) -> pd.DataFrame:
    """Metered trips of a month, at most about `MOST`, the same ones in the same order every time.

    Columns: `day` (YYYY-MM-DD), `hour`, `miles`, `minutes`, `fare`, and `predicted` where the
    trips have a `predicted_fare`.
    """
    from pyspark.sql import functions as F

    rows = trips.where((F.col("trip_month") == month) & (kind() == METERED))
    one_in = max(rows.count() // MOST, 1)
    begun, over = (F.unix_micros(f"{name}_datetime") for name in ("pickup", "dropoff"))
    columns = {
        "day": F.date_format("pickup_datetime", "yyyy-MM-dd"),
        "hour": F.hour("pickup_datetime"),
        "miles": F.col("trip_distance"),
        "minutes": (over - begun) / 60e6,
        "fare": F.col(LABEL),
    }
    if "predicted_fare" in trips.columns:
        columns["predicted"] = F.col("predicted_fare")
    drawn = rows.where(F.pmod(F.xxhash64("trip_id"), F.lit(one_in)) == 0)
    named = (value.alias(name) for name, value in columns.items())
    found: Any = drawn.select("trip_id", *named).toPandas()
    known: pd.DataFrame = found.dropna(subset=["miles", "minutes", "fare"])
    result: pd.DataFrame = known.sort_values("trip_id", ignore_index=True).drop(columns="trip_id")
    return result


def audited(
    month: str,
    before_month: str,
    trips: pd.DataFrame,
    trips_before: pd.DataFrame,
    unseen_from: str = "",
) -> Audit:
    """The audit of metered trips (see `metered`) of both months.

    The champion's error is that on trips from the day `unseen_from` on.
    """
    import numpy as np

    now, before = (
        fitted(*(rows[name].to_numpy("float64") for name in ("miles", "minutes", "fare")))
        for rows in (trips, trips_before)
    )
    if now is None or before is None:
        return Audit(month, before_month, now, before)
    miles, minutes, fares = (trips[n].to_numpy("float64") for n in ("miles", "minutes", "fare"))
    since = began(before, trips["day"].tolist(), miles, minutes, fares) or ""
    days = trips["day"].to_numpy()
    later = days >= since  # of all days where there is no such day
    if len(set(days[later])) < LEAST_DAYS:
        since, later = "", days != ""
    found = Audit(
        month,
        before_month,
        now,
        before,
        before.level(miles[later], minutes[later], fares[later]),
        since,
        float(np.abs(fares - before.fares(miles, minutes)).mean()),
    )
    as_before = minutes / _slower(trips, trips_before)
    found = replace(found, slower=float(minutes.sum() / as_before.sum()) - 1)
    if "predicted" not in trips:
        return found
    predicted = trips["predicted"].to_numpy("float64")
    unseen = np.isfinite(predicted) & (trips["day"] >= unseen_from).to_numpy()
    if unseen.sum() < LEAST:
        return found
    missed = fares - predicted
    less = now.per_minute * (minutes - as_before)
    error, in_traffic = (float(np.abs(e[unseen]).mean()) for e in (missed, missed - less))
    return replace(found, error=error, in_traffic=in_traffic)


def newest_change(months: Mapping[str, pd.DataFrame]) -> str:
    """The day (YYYY-MM-DD) from which on trips cost what they cost now; "" where all cost alike.

    `months` are metered trips (see `metered`) by month, ascending. What a month holds from a change
    on is what the next one is compared with.
    """
    found, before = "", None
    for month, rows in months.items():
        trips = rows
        if before is not None:
            audit = audited(month, "", trips, before)
            if audit.changed:
                found = audit.since or f"{month}-01"
                trips = rows[rows["day"] >= found]
        if len(trips) >= LEAST:
            before = trips
    return found


def _slower(trips: pd.DataFrame, before: pd.DataFrame) -> Array:
    """For each trip how many times as long trips of its distance and hour take as before."""
    import numpy as np

    cells = [
        np.digitize(rows["miles"], BANDS) * 24 + rows["hour"].to_numpy("int64")
        for rows in (trips, before)
    ]
    count = 24 * (len(BANDS) + 1)
    sums = [
        (np.bincount(cell, rows["minutes"], count), np.bincount(cell, minlength=count))
        for cell, rows in zip(cells, (trips, before), strict=True)
    ]
    known = np.minimum(sums[0][1], sums[1][1]) >= LEAST_OF_CELL
    means = [np.where(known, total / np.maximum(rows, 1), 1.0) for total, rows in sums]
    found: Array = (means[0] / means[1])[cells[0]]
    return found


def verdict(audits: Sequence[Audit]) -> Verdict:
    """Whether metered trips cost what they cost when the champion learned: `tariff`."""
    changed = [audit for audit in audits if audit.changed]
    told = "; ".join(sentence(audit) for audit in changed or audits)
    reason = told or "no month to compare with"
    figures = {audit.month: audit.to_json() for audit in audits}
    return Verdict("tariff", not changed, reason, figures)


def sentence(audit: Audit) -> str:
    """What the audit says, in one sentence."""
    if audit.now is None or audit.before is None:
        return f"too few metered trips in {audit.month} or {audit.before_month} to tell the tariff"
    since = f" since {audit.since}" if audit.changed and audit.since else ""
    return (
        f"the median metered trip of {audit.month} costs {audit.level:+.1%}{since} of the tariff "
        f"of {audit.before_month}: {_formula(audit.now)}, then {_formula(audit.before)}"
    )


def _formula(tariff: Tariff) -> str:
    ticks = f", {tariff.tick_share:.1%} whole ticks of {tariff.tick:.2f}" if tariff.tick else ""
    return (
        f"{tariff.base:.2f} + {tariff.per_mile:.3f} a mile + {tariff.per_minute:.3f} a minute"
        f" (to {tariff.error:.2f} dollars{ticks})"
    )
