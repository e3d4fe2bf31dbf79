"""Batch scoring: the champion's ONNX graph over Arrow batches, in Spark's own workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from databricks_steps import schemas
from databricks_steps.kept import shared
from databricks_steps.ports import Verdict
from databricks_steps.serving import feature_spec
from databricks_steps.serving.feature_spec import FeatureSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

SCORED = "trip_id string, predicted_fare double, trip_month string"


def with_predicted_fares(trips: DataFrame, model: Path) -> DataFrame:
    """Trips with looked-up features → `trip_id`, `predicted_fare`, `trip_month`.

    `model` is the folder of a registered version; its graph goes to the workers.
    """
    files = model / feature_spec.FOLDER
    inputs = FeatureSpec.from_json((files / feature_spec.FILE).read_text()).inputs
    graph = (files / feature_spec.ONNX_FILE).read_bytes()
    sent = shared(trips.sparkSession, graph)
    columns = trips.select("trip_id", "trip_month", *inputs)
    return columns.mapInArrow(_scorer(sent, inputs), SCORED)


def predictions(scored: DataFrame, model_version: str) -> DataFrame:
    """Scored trips → rows of `schemas.BATCH_PREDICTIONS`."""
    from pyspark.sql import functions as F  # noqa: N812

    return scored.select(
        "trip_id",
        "predicted_fare",
        F.lit(model_version).alias("model_version"),
        F.current_timestamp().alias("scored_at"),
        "trip_month",
    ).select(*schemas.BATCH_PREDICTIONS.names)


def rows_conserved(trips: int, predicted: int) -> Verdict:
    """Every trip has just one prediction by this version."""
    reason = f"{trips:,} trips, {predicted:,} predictions"
    return Verdict(
        "rows_conserved", trips == predicted, reason, {"trips": trips, "predictions": predicted}
    )


def no_null_predictions(rows: DataFrame) -> Verdict:
    """No prediction is null, NaN or negative."""
    from pyspark.sql import functions as F  # noqa: N812

    fare = F.col("predicted_fare")
    bad = rows.where(fare.isNull() | F.isnan(fare) | (fare < 0)).limit(3).collect()
    shown = ", ".join(f"{row['trip_id']}={row['predicted_fare']}" for row in bad)
    reason = f"null, NaN or negative: {shown}" if bad else "every prediction is a fare"
    return Verdict("no_null_predictions", not bad, reason)


def _scorer(
    graph: Callable[[], bytes], inputs: tuple[str, ...]
) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np
        import onnxruntime
        import pyarrow as pa

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # Spark runs one task a core already
        session = onnxruntime.InferenceSession(graph(), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for batch in batches:
            arrays = [batch.column(column).to_numpy(zero_copy_only=False) for column in inputs]
            matrix = np.column_stack(arrays).astype("float32") if len(batch) else None
            fares = session.run(None, {name: matrix})[0].reshape(-1) if len(batch) else []
            yield pa.record_batch(
                [
                    batch.column("trip_id"),
                    pa.array(fares, pa.float64()),
                    batch.column("trip_month"),
                ],
                names=["trip_id", "predicted_fare", "trip_month"],
            )

    return score
