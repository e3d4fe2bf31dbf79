"""Whether the model can be trusted: with shuffled fares it must know nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from databricks_steps import schemas
from databricks_steps.features.dropoff import dropoff_features
from databricks_steps.features.lookups import LOOKUPS
from databricks_steps.features.pickup import pickup_features
from databricks_steps.features.point_in_time import with_features
from databricks_steps.features.request import with_request_features
from databricks_steps.interfaces import Verdict
from databricks_steps.spark_compat import kept
from databricks_steps.training.dataset import INPUTS

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

SAMPLE = 30_000  # trips
LEAST = 1_000
LIMIT = 0.05  # of R² around 0
_LEAF = 200  # coarse on purpose: the forest must not fit the noise of the sample
_TREES = 20


def no_label_leak(
    trips: DataFrame, featured: Callable[[DataFrame], DataFrame], holdout_share: float
) -> Verdict:
    """Fares shuffled among a sample before features are made leave a holdout R² of about zero.

    `featured` is how trips get every model input, their features made from those very trips:
    shuffling the label alone would not show a feature that carries the trip's own fare.
    """
    with kept(with_shuffled_fares(sample(trips, SAMPLE))) as shuffled:
        rows = shuffled.count()
        if rows < LEAST:  # the coarse forest would not learn a leak, nor tell noise from one
            sentence = f"too few trips to tell: {rows}; {LEAST:,} are needed"
            return Verdict("no_label_leak", True, sentence, {"trips": rows, "limit": LIMIT})
        names = ["pickup_datetime", "trip_id", *INPUTS, schemas.LABEL]
        frame = featured(shuffled).select(*names).toPandas()
    r2 = holdout_r2(frame, holdout_share)
    sentence = f"with shuffled fares the holdout R² is {r2:.3f}; allowed is within ±{LIMIT}"
    return Verdict(
        "no_label_leak",
        abs(r2) <= LIMIT,
        sentence,
        {"r2_of_shuffled_fares": r2, "limit": LIMIT, "trips": len(frame)},
    )


def featured(trips: DataFrame, months: Sequence[str], lookback: timedelta) -> DataFrame:
    """The trips with every model input, by the functions that features and lookups are made of.

    A platform's own store looks up in tables; `no_future_knowledge` is what watches over it.
    """
    made = {
        "pickup_features": pickup_features(trips, months),
        "dropoff_features": dropoff_features(trips, months),
    }
    looked_up = trips
    for lookup in LOOKUPS:
        looked_up = with_features(looked_up, made[lookup.table.name], lookup, lookback)
    return with_request_features(looked_up)


def sample(trips: DataFrame, most: int) -> DataFrame:
    """At most about `most` trips, chosen by hash: the same ones every time."""
    from pyspark.sql import functions as F

    total = trips.count()
    if total <= most:
        return trips
    return trips.where(F.pmod(F.xxhash64("trip_id"), F.lit(total)) < most)


def with_shuffled_fares(trips: DataFrame) -> DataFrame:
    """The trips with their fares dealt out anew among them, in a fixed random order."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    def ranked(salt: int) -> DataFrame:
        everyone = Window.partitionBy(F.lit(0))  # Spark Connect warns of a window without one
        order = everyone.orderBy(F.xxhash64("trip_id", F.lit(salt)), "trip_id")
        return trips.withColumn("_rank", F.row_number().over(order))

    fares = ranked(1).select("_rank", F.col(schemas.LABEL).alias("_fare"))
    dealt = ranked(2).join(fares, "_rank").withColumn(schemas.LABEL, F.col("_fare"))
    return dealt.select(*trips.columns)


def holdout_r2(frame: pd.DataFrame, holdout_share: float) -> float:
    """R² of a coarse forest on the last share of the rows by pickup time."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.metrics import r2_score

    ordered = frame.sort_values(["pickup_datetime", "trip_id"])
    cut = int(len(ordered) * (1 - holdout_share))
    train, holdout = ordered.iloc[:cut], ordered.iloc[cut:]
    forest = RandomForestRegressor(
        _TREES, min_samples_leaf=_LEAF, max_features=0.5, random_state=0, n_jobs=-1
    )
    forest.fit(train[list(INPUTS)], train[schemas.LABEL])
    return float(r2_score(holdout[schemas.LABEL], forest.predict(holdout[list(INPUTS)])))
