"""Scoring with the ONNX graph: fares, order of inputs, and folders that cannot be served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from databricks_steps.errors import ModelError
from databricks_steps.inference import feature_spec
from databricks_steps.inference.feature_spec import FeatureSpec
from databricks_steps.inference.scorer import Scorer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A served model of two inputs: fare = 3 + 2.5 miles + 0.5 hours."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.linear_model import LinearRegression

    x = np.array([[0, 0], [1, 0], [0, 1], [2, 3]], dtype=np.float32)
    linear = LinearRegression().fit(x, 3 + x @ [2.5, 0.5])
    graph = convert_sklearn(linear, initial_types=[("inputs", FloatTensorType([None, 2]))])
    folder = tmp_path / "model" / feature_spec.FOLDER
    folder.mkdir(parents=True)
    (folder / feature_spec.ONNX_FILE).write_bytes(graph.SerializeToString())
    spec = FeatureSpec(("trip_distance", "pickup_hour"), ())
    (folder / feature_spec.FILE).write_text(spec.to_json())
    return folder.parent


def test_fares_in_the_order_of_the_inputs(model: Path) -> None:
    scorer = Scorer.load(model, threads=2)
    fares = scorer.predict(np.array([[2, 10], [10, 2]], dtype=np.float32))
    assert fares.tolist() == pytest.approx([13.0, 29.0], abs=1e-4)
    assert fares.dtype == np.float64
    assert scorer.spec.inputs == ("trip_distance", "pickup_hour")
    assert scorer.predict(np.empty((0, 2), dtype=np.float32)).shape == (0,)


@pytest.mark.parametrize("file", [feature_spec.ONNX_FILE, feature_spec.FILE])
def test_a_missing_or_broken_file_is_named(model: Path, file: str) -> None:
    place = model / feature_spec.FOLDER / file
    place.write_bytes(b"\x00broken")
    with pytest.raises(ModelError, match="must be readable"):
        Scorer.load(model)
    place.unlink()
    with pytest.raises(ModelError, match=file):
        Scorer.load(model)


def test_a_spec_as_wide_as_another_graph_is_refused(model: Path) -> None:
    (model / feature_spec.FOLDER / feature_spec.FILE).write_text(
        FeatureSpec(("trip_distance", "pickup_hour", "pickup_weekday"), ()).to_json()
    )
    with pytest.raises(ModelError, match="2 against 3"):
        Scorer.load(model)
