"""Who becomes champion, what the ledger says of it, approval, and processes killed in between."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from databricks_steps import schemas
from databricks_steps.errors import ModelError
from databricks_steps.platforms.embedded.tables import DeltaTables
from databricks_steps.settings import Settings
from databricks_steps.training import deployment_log, promotion, registry
from databricks_steps.training.promotion import Promotion

pytestmark = pytest.mark.slow  # a registry each


def no_spark() -> NoReturn:
    raise AssertionError("a ledger needs no Spark")


@pytest.fixture
def tables(settings: Settings) -> DeltaTables:
    return DeltaTables(settings, no_spark)


def candidate(settings: Settings, checks: str = "passed", **tags: str) -> str:
    """A registered version, candidate from now on; its number."""
    client = registry.client(settings)
    experiment = client.get_experiment_by_name(settings.experiment)
    run = client.create_run(experiment.experiment_id)
    client.log_metric(run.info.run_id, "rmse", 3.5)
    if not client.search_registered_models():
        client.create_registered_model(settings.registered_model)
    given = {registry.CHECKS: checks, registry.JUDGED: "compared with champion", **tags}
    made = client.create_model_version(
        settings.registered_model, "file:///x", run.info.run_id, given
    )
    registry.point(settings, registry.CANDIDATE, str(made.version))
    return str(made.version)


def aliases(settings: Settings) -> tuple[str | None, ...]:
    names = (registry.CHAMPION, registry.PREVIOUS)
    found = [registry.version(settings, name) for name in names]
    return tuple(version.number if version else None for version in found)


def moves(tables: DeltaTables) -> list[tuple[Any, ...]]:
    return [
        (row["number"], row["action"], row["from_version"], row["to_version"])
        for row in deployment_log.entries(tables)
    ]


def test_no_candidate_and_a_failed_one_change_nothing(
    settings: Settings, tables: DeltaTables
) -> None:
    with pytest.raises(ModelError, match="A trained model is needed: no .*@candidate"):
        promotion.promote(settings, tables)
    candidate(settings, checks="failed")
    with pytest.raises(ModelError, match="passed its blocking checks: version 1: checks failed"):
        promotion.promote(settings, tables)
    assert aliases(settings) == (None, None)
    assert moves(tables) == []


def test_each_move_is_one_row_and_a_second_run_adds_none(
    settings: Settings, tables: DeltaTables
) -> None:
    candidate(settings)
    assert promotion.promote(settings, tables) == Promotion(None, "1", "the first champion")
    assert promotion.promote(settings, tables) == Promotion("1", "1", "champion already")
    candidate(settings)
    assert promotion.promote(settings, tables).before == "1"
    candidate(settings, checks="failed")
    with pytest.raises(ModelError):
        promotion.promote(settings, tables)
    assert aliases(settings) == ("2", "1")
    assert moves(tables) == [(1, "promoted", None, "1"), (2, "promoted", "1", "2")]
    first, second = deployment_log.entries(tables)
    assert set(first) == set(schemas.DEPLOYMENTS.names)
    assert second["why"] == "compared with champion"
    assert second["moved_by"] == deployment_log.who()
    assert second["moved_at"] > first["moved_at"]
    assert json.loads(second["metrics"]) == {"rmse": 3.5}
    assert second["run_id"] == registry.require(settings, registry.CHAMPION).run_id
    assert tables.rows("deployments") == 2


def test_the_ledger_names_whom_a_run_acts_for(settings: Settings, tables: DeltaTables) -> None:
    candidate(settings)
    promotion.promote(settings, tables, "run-as@example.com")
    candidate(settings, **{promotion.LEFT: "yesterday by ann: complaints"})
    registry.point(settings, registry.CHAMPION, "2")
    promotion.promote(settings, tables, "another@example.com")
    assert [row["moved_by"] for row in deployment_log.entries(tables)] == [
        "run-as@example.com",
        "another@example.com",
    ]


def test_killed_between_alias_and_ledger_the_next_call_writes_the_row(
    settings: Settings, tables: DeltaTables
) -> None:
    candidate(settings)
    promotion.promote(settings, tables)
    candidate(settings)
    registry.point(settings, registry.CHAMPION, "2")  # all that a killed promotion had done
    assert moves(tables) == [(1, "promoted", None, "1")]
    assert promotion.promote(settings, tables).after == "2"
    assert moves(tables) == [(1, "promoted", None, "1"), (2, "promoted", "1", "2")]
    assert aliases(settings) == ("2", "1")


def test_where_a_person_must_approve_nothing_moves_before(
    settings: Settings, tables: DeltaTables
) -> None:
    asking = replace(settings, require_approval=True)
    candidate(asking)
    with pytest.raises(
        ModelError,
        match="approved by a person here: version 1 has no tag approval=Approved. Read its "
        "model card, then taxi-assets approve 1 for the same target",
    ):
        promotion.promote(asking, tables)
    assert aliases(asking) == (None, None)
    assert moves(tables) == []
    promotion.approve(asking, "1")
    assert promotion.promote(asking, tables).after == "1"
    assert registry.numbered(asking, "1").tags["approval_by"] == deployment_log.who()
    candidate(asking, approval="approved")  # as a person may write it in Unity Catalog
    assert promotion.promote(asking, tables).after == "2"
    with pytest.raises(ModelError, match="has no version '9'. There are: 1, 2"):
        promotion.approve(asking, "9")


def test_a_version_that_was_left_does_not_come_back_by_itself(
    settings: Settings, tables: DeltaTables
) -> None:
    candidate(settings)
    promotion.promote(settings, tables)
    candidate(settings, **{promotion.LEFT: "yesterday by ann: complaints"})
    kept = promotion.promote(settings, tables)
    assert kept == Promotion("1", "1", "version 2 was rolled back: yesterday by ann: complaints")
    assert aliases(settings) == ("1", None)
    assert len(moves(tables)) == 1


def test_an_alias_that_was_moved_back_by_hand_gets_its_row(
    settings: Settings, tables: DeltaTables
) -> None:
    for _ in range(2):
        candidate(settings)
        promotion.promote(settings, tables)
    registry.point(settings, registry.CHAMPION, "1")
    registry.tag(settings, "2", promotion.LEFT, "today by ann: complaints")
    kept = promotion.promote(settings, tables)
    assert kept == Promotion("1", "1", "version 2 was rolled back: today by ann: complaints")
    assert moves(tables)[-1] == (3, "rolled back", "2", "1")
    assert aliases(settings) == ("1", "2")
    assert promotion.promote(settings, tables) == kept
    assert len(moves(tables)) == 3


def test_a_registry_that_is_down_is_one_error(settings: Settings, tables: DeltaTables) -> None:
    settings.home.mkdir()
    Path(settings.home / "mlflow.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(ModelError, match=r"The model registry must answer: sqlite:///.*mlflow\.db"):
        promotion.promote(settings, tables)
