"""A landing folder of 1,000 files of which 200 are broken: ticks stay short, alerts few."""

from __future__ import annotations

import gzip
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from world import World

from databricks_steps.trips.demo import demo_trips
from taxi_assets.partitions import RANGE_TAGS

pytestmark = [pytest.mark.long, pytest.mark.alone]  # a thousand files, and a limit in seconds
NAME = "new_trips_sensor"
MONTHS = ("2021-04", "2021-05")
FILES, BROKEN = 1_000, 200
LONGEST_SECONDS = 5.0


def broken(whole: bytes) -> list[tuple[str, bytes]]:
    """Endings and contents of files that cannot be read, one of each cause."""
    header = b"VendorID,lpep_pickup_datetime,PULocationID\n1,2021-04-01 00:00:00,74\n"
    return [
        (".parquet", b""),
        (".parquet", whole[: len(whole) // 2]),
        (".parquet", b"PAR1" + bytes(90) + b"PAR1"),
        (".parquet", b"<html>not found</html>"),
        (".csv", header),
        (".csv", b"PK\x03\x04 and no more"),
        (".csv.gz", gzip.compress(gzip.compress(header))),
        (".csv", b"dispatching_base_num,pickup_datetime\nB1,2021-04-01 00:00:00\n"),
    ]


def landed(folder: Path) -> None:
    """Good files of two months, day by day and more, and the broken ones among them."""
    for number in range(FILES - BROKEN):
        month = MONTHS[number % len(MONTHS)]
        table = demo_trips(month, 40, seed=number)
        pq.write_table(table, folder / f"green_{month}-{number:04d}.parquet")
    kinds = broken((folder / "green_2021-04-0000.parquet").read_bytes())
    for number in range(BROKEN):
        ending, content = kinds[number % len(kinds)]
        (folder / f"bad_{number:03d}{ending}").write_bytes(content)


def test_a_thousand_files_of_which_a_fifth_is_broken(served: World) -> None:
    landed(served.landing)
    asked: list[str] = []
    longest, quiet = 0.0, 0
    while quiet < 3:
        started = time.perf_counter()
        found = served.tick(NAME)
        longest = max(longest, time.perf_counter() - started)
        quiet = (
            0 if found.run_requests or "still arriving" in (found.skip_message or "") else quiet + 1
        )
        for request in found.run_requests:
            asked.append(request.tags[RANGE_TAGS[0]])
            served.execute(NAME, request)
    assert longest < LONGEST_SECONDS
    assert set(asked) == set(MONTHS)
    rows = served.arrivals()
    assert Counter(row["status"] for row in rows) == {
        "passed over": FILES - BROKEN,  # the runs of this world write no trips
        "refused": BROKEN,
    }
    assert {row["cause"] for row in rows if row["status"] == "passed over"} == {"waits"}
    causes = {row["cause"] for row in rows if row["status"] == "refused"}
    assert causes == {"empty", "truncated", "damaged", "format", "columns", "packed", "service"}
    assert served.problems() == [f"file {cause}" for cause in sorted(causes)]
    assert len(served.alerts()) < 3 * len(causes)
