"""`new_trips_sensor`: whole files alone, one run a month, one after another, nothing twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dagster as dg
import pytest
from world import World

from taxi_assets.partitions import RANGE_TAGS, hold
from taxi_assets.sensors.publication import published

pytestmark = pytest.mark.slow  # runs of Dagster
NAME = "new_trips_sensor"
STATUS = dg.DagsterRunStatus


def settle(world: World) -> dg.RunRequest:
    """The run asked for once the file was seen twice."""
    assert "is still arriving" in world.said(NAME)
    return world.asked(NAME)


def months(request: dg.RunRequest) -> list[str]:
    """The first and last month of a run that is asked for."""
    return [request.tags[tag] for tag in RANGE_TAGS]


def test_no_folder_and_an_empty_one_are_nothing_to_do(world: World) -> None:
    landing = world.settings.home / "landing"
    assert world.said(NAME) == f"{landing} has no trips"
    for name in (
        ".hidden_2022-03.parquet",
        "_x_2022-03.csv",
        "notes.txt",
        "a_2022-03.parquet.part",
    ):
        (world.landing / name).write_text("x")
    (world.landing / "folder_2022-03.parquet").mkdir()
    world.tick(NAME)
    assert world.said(NAME) == f"{landing} has no trips"
    assert {row["status"] for row in world.arrivals()} == {"passed over"}
    assert len(world.arrivals()) == 5


def test_a_month_is_a_partition_before_its_run_is_asked_for(served: World) -> None:
    def partitions() -> list[str]:
        return list(served.instance.get_dynamic_partitions("months"))

    hold(served.instance, ["2022-05"])
    served.land("2022-03")
    request = settle(served)
    assert partitions() == ["2022-03", "2022-05"]
    assert served.execute(NAME, request).status == STATUS.SUCCESS
    made = served.instance.get_materialized_partitions(dg.AssetKey("raw_trips"))
    assert made == {"2022-03"}


def test_a_month_that_people_add_is_put_in_order_while_no_run_is_in_flight(served: World) -> None:
    hold(served.instance, ["2022-03"])
    run = served.queue("new_month", STATUS.STARTED)
    served.instance.add_dynamic_partitions("months", ["2022-01"])  # as the UI does
    served.tick(NAME)
    assert served.instance.get_dynamic_partitions("months") == ["2022-03", "2022-01"]
    served.instance.report_run_canceled(run)
    served.tick(NAME)
    assert served.instance.get_dynamic_partitions("months") == ["2022-01", "2022-03"]


def test_a_month_that_lands_is_run_once_and_then_learned_from(served: World) -> None:
    served.land("2022-03")
    request = settle(served)
    assert request.job_name == "new_month"
    assert months(request) == ["2022-03", "2022-03"]
    assert request.run_config == {"ops": {"raw_trips": {"config": {"source": str(served.landing)}}}}
    assert served.tick(NAME, keep=False).run_requests[0].run_key == request.run_key
    first = served.execute(NAME, request)
    assert first.status == STATUS.SUCCESS

    routine = served.asked(NAME)
    assert (routine.job_name, routine.run_key) == ("retrain", f"retrain:{first.run_id}")
    assert months(routine) == ["2022-03", "2022-03"]
    second = served.execute(NAME, routine)
    for _ in range(3):
        assert (
            served.said(NAME)
            == f"2022-03: run {second.run_id[:8]} of retrain for 2022-03 is SUCCESS"
        )
    served = served.restarted()
    assert "of retrain for 2022-03 is SUCCESS" in served.said(NAME)


def test_a_file_that_still_grows_waits(served: World) -> None:
    whole = served.land("2022-03").read_bytes()
    file = served.landing / "green_tripdata_2022-03.parquet"
    for part in range(1, 5):
        file.write_bytes(whole[: len(whole) * part // 5])
        size = len(whole) * part // 5
        assert served.said(NAME) == f"{file.name} is still arriving ({size:,} bytes)"
    file.write_bytes(whole)
    assert settle(served).job_name == "new_month"
    assert served.alerts() == []


def test_a_file_written_anew_at_the_same_size_waits(served: World) -> None:
    file = served.land("2022-03")
    served.said(NAME)
    os.utime(file, ns=(1, 1))
    assert "is still arriving" in served.said(NAME)
    assert served.asked(NAME).job_name == "new_month"


def test_a_half_copied_file_that_pauses_is_told_only_when_it_stays_so(served: World) -> None:
    file = served.land("2022-03")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "is still arriving" in served.said(NAME)
    for _ in range(2):
        assert served.said(NAME) == (
            f"{file.name} is not readable yet: it is truncated: the parquet footer is missing"
        )
        assert served.alerts() == []
    told = f"{file.name}: it is truncated: the parquet footer is missing"
    for _ in range(3):
        assert served.said(NAME) == told
        served = served.restarted()
    assert served.alerts() == [("error", "file truncated")]

    file.write_bytes(whole)
    assert "is still arriving" in served.said(NAME)
    assert served.asked(NAME).job_name == "new_month"
    assert served.alerts()[1:] == [("resolved", "file truncated")]


def test_an_unreadable_file_blocks_no_other(served: World) -> None:
    bad, good = served.land("2022-02"), served.land("2022-03")
    bad.write_bytes(bad.read_bytes()[:1000])
    assert months(settle(served)) == ["2022-03", "2022-03"]
    for _ in range(3):
        served.tick(NAME)
    (problem,) = served.problems()
    assert problem == "file truncated"
    bad.unlink()
    served.tick(NAME)
    assert served.alerts() == [("error", problem), ("resolved", problem)]
    assert good.exists()


def test_the_alert_of_a_file_says_what_and_where(served: World) -> None:
    file = served.landing / "trips.csv"
    file.write_text("lpep_pickup_datetime,PULocationID,DOLocationID,trip_distance,fare_amount\n")
    for _ in range(5):
        served.tick(NAME)
    (row,) = map(json.loads, (served.settings.home / "alerts.jsonl").read_text().splitlines())
    assert row["where"] == {"asset": "raw_trips", "month": "", "link": str(file)}
    assert file.name in row["what"]
    assert row["remedy"]


def test_months_out_of_order_go_by_month_and_one_after_another(served: World) -> None:
    for month in ("2022-05", "2022-03", "2022-04"):
        served.land(month)
    served.said(NAME)
    done = []
    for _ in range(6):
        request = served.asked(NAME)
        done.append((request.job_name, request.tags[RANGE_TAGS[0]]))
        served.execute(NAME, request)
    assert done == [
        ("new_month", "2022-03"),
        ("retrain", "2022-03"),
        ("new_month", "2022-04"),
        ("retrain", "2022-04"),
        ("new_month", "2022-05"),
        ("retrain", "2022-05"),
    ]
    served.land("2022-02")
    request = settle(served)
    served.execute(NAME, request)
    assert "2022-02: no retrain for a month older than 2022-05" in served.said(NAME)


@pytest.mark.parametrize("job", ["new_month", "retrain", "fare_pipeline"])
@pytest.mark.parametrize("status", [STATUS.NOT_STARTED, STATUS.STARTED, STATUS.CANCELING])
def test_never_two_in_flight(served: World, job: str, status: dg.DagsterRunStatus) -> None:
    served.land("2022-03")
    served.said(NAME)
    run = served.queue(job, status, **served.tags("2022-01", "2022-02"))
    assert served.said(NAME) == (
        f"waits for run {run.run_id[:8]} of {job} for 2022-01:2022-02, {status.value}"
    )
    served.instance.report_run_canceled(run)
    assert served.asked(NAME).job_name == "new_month"


def test_a_run_that_was_killed_is_closed_and_holds_up_nothing(served: World) -> None:
    served.land("2022-03")
    served.said(NAME)
    killed = served.queue("fare_pipeline", STATUS.STARTED, **{"taxi_assets/pid": "1"})
    assert served.asked(NAME).job_name == "new_month"
    run = served.instance.get_run_by_id(killed.run_id)
    assert run is not None
    assert run.status == STATUS.FAILURE


@pytest.mark.parametrize("kind", ["covariate drift", "concept drift"])
def test_a_month_that_drifted_is_left_to_the_other_sensor(served: World, kind: str) -> None:
    served.tell(triage={"2022-03": {"kind": kind}})
    served.land("2022-03")
    served.execute(NAME, settle(served))
    assert served.said(NAME).endswith(f": {kind}, left to drift_retrain_sensor")


def test_nobody_trains_on_a_data_problem_but_on_a_new_column(served: World) -> None:
    kinds = {"2022-03": "data problem", "2022-04": "upstream schema change"}
    served.tell(triage={month: {"kind": kind} for month, kind in kinds.items()})
    served.land("2022-03")
    served.execute(NAME, settle(served))
    assert served.said(NAME).endswith(": data problem, nobody trains on it")
    served.land("2022-04")
    served.said(NAME)
    served.execute(NAME, served.asked(NAME))
    assert served.asked(NAME).job_name == "retrain"


def test_a_failed_run_waits_for_a_person_or_a_new_file(served: World) -> None:
    served.tell(broken=["batch_predictions"])
    file = served.land("2022-03")
    request = settle(served)
    failed = served.execute(NAME, request)
    assert failed.status == STATUS.FAILURE
    assert served.said(NAME) == (
        f"2022-03: run {failed.run_id[:8]} of new_month for 2022-03 is FAILURE; "
        "execute it again, or bring a new file"
    )
    served.tell()
    served.land("2022-03", rows=60)
    anew = settle(served)
    assert anew.run_key != request.run_key
    assert file.exists()


def test_a_failed_run_that_a_person_executes_again_goes_on(served: World) -> None:
    served.tell(broken=["batch_predictions"])
    served.land("2022-03")
    failed = served.execute(NAME, settle(served))
    served.tell()
    tags = {key: text for key, text in failed.tags.items() if "run_key" not in key}
    again = served.repository.get_job("new_month").execute_in_process(
        instance=served.instance,
        tags={
            **tags,
            "dagster/parent_run_id": failed.run_id,
            "dagster/root_run_id": failed.run_id,
        },
    )
    assert again.success
    assert served.asked(NAME).run_key == f"retrain:{failed.run_id}"


def test_two_files_of_a_month_are_one_run_and_a_bad_one_is_left_out(served: World) -> None:
    served.land("2022-03")
    served.land("2022-03", service="yellow")
    request = settle(served)
    served.execute(NAME, request)
    bad = served.landing / "fhv_2022-03.parquet"
    bad.write_bytes(b"PAR1")
    for _ in range(3):
        assert bad.name in served.said(NAME)
    assert served.asked(NAME).job_name == "retrain"


def test_without_a_model_the_first_month_makes_one(world: World) -> None:
    world.land("2022-03")
    request = settle(world)
    assert request.job_name == "fare_pipeline"
    run = world.execute(NAME, request)
    assert run.status == STATUS.SUCCESS
    assert (
        world.said(NAME)
        == f"2022-03: run {run.run_id[:8]} of fare_pipeline for 2022-03 made its model"
    )


def test_a_cursor_of_another_version_begins_anew(served: World) -> None:
    served.land("2022-03")
    for text in ("not json", "[]", '{"version": 99, "files": 3}'):
        served.cursors[NAME] = text
        assert "is still arriving" in served.said(NAME)
    assert json.loads(served.cursors[NAME] or "")["version"] == 1


def test_the_month_after_the_newest_is_asked_for_at_the_publisher(tmp_path: Path) -> None:
    (tmp_path / "green_tripdata_2022-04.parquet").write_bytes(b"x")
    url, asked = tmp_path.as_uri(), {}
    assert published("demo", ["2022-03"], asked, url) is None
    assert published("tlc:green", [], asked, url) is None
    assert published("tlc:yellow", ["2022-03"], asked, url) is None
    assert published("tlc:green", ["2022-03"], asked, url) is None, (
        "not asked again within the hour"
    )
    asked["at"] -= 3601
    assert published("tlc:green", ["2022-02", "2022-03"], asked, url) == "2022-04"
