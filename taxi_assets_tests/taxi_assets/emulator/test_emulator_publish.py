"""Publishing into the online tables: the rows after each kind of change, and what readers see."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from databricks_steps import schemas
from databricks_steps.inference.feature_spec import TableLookup
from databricks_steps.settings import Settings
from taxi_assets.emulator.errors import ApiError
from taxi_assets.emulator.runtime import online_tables
from taxi_assets.emulator.runtime.lookups import DAY, FRESH, FUTURE, STALE, UNKNOWN, Lookup
from taxi_assets.emulator.runtime.online_tables import OnlineTables, Published, Snapshot
from taxi_assets.emulator.runtime.publish import publish, unpublish
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import (
    GRID,
    START,
    feature_rows,
    write_features,
)

TABLE = schemas.PICKUP_FEATURES
FEATURES = [column.name for column in TABLE.features]
Rows = dict[int, dict[str, float | int | None]]


class Source:
    """A feature table of a home, with what to expect of it online."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = settings.table(TABLE.name)
        self.online = f"{self.name}_online"
        self.path = str(settings.table_path(TABLE.name))

    def publish(self) -> Published:
        return publish(self.settings, self.name, self.online, "store")

    def shown(self) -> Rows:
        return OnlineTables(online_tables.database(self.settings)).rows(self.online)

    def snapshot(self) -> Snapshot:
        """What lookups read after a refresh."""
        tables = OnlineTables(online_tables.database(self.settings))
        tables.refresh()
        return tables.snapshot

    def expected(self) -> Rows:
        """The latest row of each location, found the simple way."""
        rows: Rows = {}
        table = DeltaTable(self.path).to_pyarrow_table().sort_by("known_at")
        times = table.column("known_at").cast(pa.int64()).to_pylist()
        for row, at in zip(
            table.select(["location_id", *FEATURES]).to_pylist(), times, strict=True
        ):
            location = row.pop("location_id")
            rows[location] = {**row, "known_at": at}
        return rows

    def append(self, *locations: int, step: int, seed: int = 9) -> None:
        rows = feature_rows(TABLE, list(locations), [START + GRID * step], seed)
        write_deltalake(self.path, rows, mode="append")


@pytest.fixture
def source(settings: Settings) -> Source:
    rows = feature_rows(TABLE, [1, 2, 3], [START + GRID * step for step in range(4)])
    write_features(settings, TABLE, rows)
    return Source(settings)


def outcome(published: Published) -> tuple[str, int, int, int]:
    return published.mode, published.version, published.rows, published.changed


def test_first_time_full_then_nothing_then_only_changes(source: Source) -> None:
    assert outcome(source.publish()) == ("full", 0, 3, 3)
    assert source.shown() == source.expected()
    assert {row["known_at"] for row in source.shown().values()} == {
        int((START + GRID * 3).timestamp() * 1e6)
    }
    assert outcome(source.publish()) == ("unchanged", 0, 3, 0)
    source.append(2, 7, step=4)
    assert outcome(source.publish()) == ("incremental", 1, 4, 2)
    assert source.shown() == source.expected()
    assert set(source.shown()) == {1, 2, 3, 7}


def test_an_older_row_changes_nothing_online(source: Source) -> None:
    source.publish()
    before = source.shown()
    source.append(1, step=-5)
    assert outcome(source.publish()) == ("incremental", 1, 3, 0)
    assert source.shown() == before


def test_an_update_of_the_latest_row_is_shown_and_of_an_older_one_not(source: Source) -> None:
    source.publish()
    delta = DeltaTable(source.path)
    latest = (START + GRID * 3).strftime("%Y-%m-%d %H:%M:%S+00:00")
    for fare, row in (
        ("77.5", f"location_id = 1 AND known_at = '{latest}'"),
        ("55.5", f"location_id = 2 AND known_at < '{latest}'"),
    ):
        delta.update(updates={"pickup_mean_fare_1h": fare}, predicate=row)
    assert outcome(source.publish()) == ("incremental", 2, 3, 1)
    assert source.shown()[1]["pickup_mean_fare_1h"] == 77.5
    assert source.shown() == source.expected()


def test_a_deleted_latest_row_gives_way_to_the_next_latest(source: Source) -> None:
    source.publish()
    latest = (START + GRID * 3).strftime("%Y-%m-%d %H:%M:%S+00:00")
    DeltaTable(source.path).delete(f"location_id = 1 AND known_at = '{latest}'")
    DeltaTable(source.path).delete("location_id = 2")
    assert outcome(source.publish()) == ("incremental", 2, 2, 2)
    assert source.shown() == source.expected()
    assert source.shown()[1]["known_at"] == int((START + GRID * 2).timestamp() * 1e6)
    assert 2 not in source.shown()


def test_deleted_then_replaced_by_an_older_row_than_the_next_latest(source: Source) -> None:
    source.publish()
    latest = (START + GRID * 3).strftime("%Y-%m-%d %H:%M:%S+00:00")
    DeltaTable(source.path).delete(f"location_id = 1 AND known_at = '{latest}'")
    source.append(1, step=-5)
    source.publish()
    assert source.shown() == source.expected()


def test_a_replaced_month_deletes_and_inserts_the_same_keys_in_one_commit(source: Source) -> None:
    source.publish()
    rows = feature_rows(TABLE, [1, 3], [START + GRID * 2, START + GRID * 3], seed=5)
    february = rows.filter(pc.equal(rows.column("known_month"), "2022-02"))
    write_deltalake(source.path, february, mode="overwrite", predicate="known_month = '2022-02'")
    assert source.publish().mode == "incremental"
    assert source.shown() == source.expected()
    assert source.shown()[2]["known_at"] == int((START + GRID).timestamp() * 1e6)  # January's


def test_inserted_and_deleted_between_two_publishes(source: Source) -> None:
    source.publish()
    source.append(1, 8, step=6)
    DeltaTable(source.path).delete("location_id = 8")
    later = (START + GRID * 6).strftime("%Y-%m-%d %H:%M:%S+00:00")
    DeltaTable(source.path).delete(f"location_id = 1 AND known_at = '{later}'")
    assert outcome(source.publish()) == ("incremental", 3, 3, 0)
    assert source.shown() == source.expected()


def test_a_table_made_anew_is_read_in_full(source: Source) -> None:
    source.append(2, step=5)
    source.publish()
    shutil.rmtree(source.path)
    write_features(source.settings, TABLE, feature_rows(TABLE, [4], [START], seed=3))
    assert outcome(source.publish()) == ("full", 0, 1, 1)
    assert source.shown() == source.expected()


def test_without_a_change_data_feed_the_table_is_read_in_full(settings: Settings) -> None:
    source = Source(settings)
    write_deltalake(source.path, feature_rows(TABLE, [1], [START]))
    source.publish()
    source.append(1, 2, step=1)
    assert outcome(source.publish()) == ("full", 1, 2, 2)
    assert source.shown() == source.expected()


def test_vacuumed_changes_are_read_from_the_table(source: Source) -> None:
    source.publish()
    source.append(2, step=4)
    DeltaTable(source.path).optimize.compact()
    DeltaTable(source.path).vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
    source.publish()
    assert source.shown() == source.expected()


def test_null_features_stay_null_and_the_lookup_answers_the_default(source: Source) -> None:
    rows = feature_rows(TABLE, [5], [START])
    place = rows.schema.get_field_index("pickup_mean_fare_1h")
    empty = rows.set_column(place, "pickup_mean_fare_1h", pa.array([None], pa.float64()))
    write_deltalake(source.path, empty, mode="append")
    source.publish()
    shown = source.shown()[5]
    assert shown["pickup_mean_fare_1h"] is None
    names = ("pickup_mean_fare_1h", "pickup_mean_fare_7d")
    wanted = TableLookup(source.name, "pickup_location_id", names, dict.fromkeys(names, 15.0))
    lookup, now = Lookup(wanted), source.snapshot()
    known = shown["pickup_mean_fare_7d"]
    at = shown["known_at"]
    assert lookup.one(now, 5, at) == ((15.0, known), at, FRESH)
    assert lookup.one(now, 404, at) == ((15.0, 15.0), None, UNKNOWN)
    many = lookup.many(now, np.array([404, 5, 404]), np.full(3, at))
    assert many.features.tolist() == [[15, 15], [15, known], [15, 15]]
    assert many.state.tolist() == [UNKNOWN, FRESH, UNKNOWN]
    assert many.known_at.tolist() == [0, at, 0]
    none = lookup.many(now, np.array([404, 405]), np.full(2, at))
    assert none.features.tolist() == [[15, 15], [15, 15]]


def test_a_row_lives_as_long_as_the_lookback_says(source: Source) -> None:
    source.append(5, step=0)
    source.publish()
    shown = source.shown()[5]
    names = ("pickup_trip_count_1h", "pickup_mean_fare_7d")
    wanted = TableLookup(
        source.name, "pickup_location_id", names, dict.fromkeys(names, -1.0), lookback_days=7
    )
    lookup, now = Lookup(wanted), source.snapshot()
    values = tuple(float(shown[name] or 0) for name in names)
    last = shown["known_at"] + 7 * DAY  # to the microsecond, as in the offline lookup
    assert lookup.one(now, 5, last) == (values, shown["known_at"], FRESH)
    assert lookup.one(now, 5, last + 1) == ((-1.0, -1.0), shown["known_at"], STALE)
    known = shown["known_at"]  # a trip of the past knows nothing of it, to the microsecond
    assert lookup.one(now, 5, known) == (values, known, FRESH)
    assert lookup.one(now, 5, known - 1) == ((-1.0, -1.0), known, FUTURE)
    early = lookup.many(now, np.array([5, 5, 404]), np.array([known, known - 1, known - 1]))
    assert early.state.tolist() == [FRESH, FUTURE, UNKNOWN]
    assert early.features.tolist() == [list(values), [-1.0, -1.0], [-1.0, -1.0]]
    many = lookup.many(now, np.array([5, 5, 404]), np.array([last, last + 1, last]))
    assert many.features.tolist() == [list(values), [-1, -1], [-1, -1]]
    assert many.state.tolist() == [FRESH, STALE, UNKNOWN]


def test_what_cannot_be_published_is_refused(source: Source) -> None:
    settings = source.settings
    for name, message in (
        (settings.table("trips"), "Only a feature table"),
        ("pickup_features", "three levels"),
        ("../../etc.x.pickup_features", "three levels"),
        (settings.table("dropoff_features"), "does not exist"),
    ):
        with pytest.raises(ApiError, match=message):
            publish(settings, name, source.online, "store")
    with pytest.raises(ApiError, match="three levels"):
        publish(settings, source.name, 'a.b.c"; DROP TABLE _registry', "store")
    source.publish()
    write_features(
        settings, schemas.DROPOFF_FEATURES, feature_rows(schemas.DROPOFF_FEATURES, [1], [START])
    )
    with pytest.raises(ApiError, match="has one source"):
        publish(settings, settings.table("dropoff_features"), source.online, "store")
    assert source.shown() == source.expected()


def test_a_failed_publish_leaves_the_old_rows(source: Source) -> None:
    source.publish()
    before = source.shown()
    source.append(1, step=4)
    added = DeltaTable(source.path).file_uris()
    newest = max((Path(file) for file in added), key=lambda file: file.stat().st_mtime_ns)
    newest.unlink()
    with pytest.raises(Exception, match=r"No such file|not found|Not Found"):
        source.publish()
    assert source.shown() == before
    assert (
        OnlineTables(online_tables.database(source.settings)).published()[source.online].version
        == 0
    )


@pytest.fixture
def readers(source: Source) -> Iterator[list[set[tuple[float, ...]]]]:
    """Threads that look all locations up, over and over, and keep every distinct answer."""
    source.publish()
    wanted = TableLookup(
        source.name, "pickup_location_id", tuple(FEATURES), dict.fromkeys(FEATURES, -1.0)
    )
    lookup, tables = Lookup(wanted), OnlineTables(online_tables.database(source.settings))
    tables.start()
    seen: list[set[tuple[float, ...]]] = [set(), set()]
    stop = threading.Event()

    keys, at = np.array([1, 2, 3]), np.full(3, 1 << 60)  # later than every row

    def read(answers: set[tuple[float, ...]]) -> None:
        while not stop.is_set():
            answers.add(tuple(lookup.many(tables.snapshot, keys, at).features[:, 2].tolist()))

    threads = [threading.Thread(target=read, args=(answers,)) for answers in seen]
    for thread in threads:
        thread.start()
    yield seen
    stop.set()
    for thread in threads:
        thread.join()
    tables.stop()


def test_readers_see_the_old_rows_or_the_new_never_a_mix(
    source: Source, readers: list[set[tuple[float, ...]]]
) -> None:
    name = FEATURES[2]
    versions = []
    for step in range(5, 17):
        versions.append(tuple(source.shown()[location][name] for location in (1, 2, 3)))
        if step % 4 == 0:  # in full: the table is dropped and made again
            shutil.rmtree(source.path)
            rows = feature_rows(TABLE, [1, 2, 3], [START + timedelta(days=step)], seed=step)
            write_features(source.settings, TABLE, rows)
        else:
            source.append(1, 2, 3, step=step * 100, seed=step)
        assert source.publish().mode == ("full" if step % 4 == 0 else "incremental")
    versions.append(tuple(source.shown()[location][name] for location in (1, 2, 3)))
    assert len(set(versions)) == 13
    assert all(seen <= set(versions) for seen in readers)
    assert len(readers[0] | readers[1]) > 1


def test_unpublishing_a_store_removes_its_tables(source: Source) -> None:
    source.publish()
    assert unpublish(source.settings, "other") == 0
    assert unpublish(source.settings, "store") == 1
    assert OnlineTables(online_tables.database(source.settings)).published() == {}
    assert outcome(source.publish())[0] == "full"
