"""`taxi-assets report`: the page of a real run, of an empty home, and of a home without Dagster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest_run import MONTHS, table_rows

from databricks_steps.settings import Settings
from taxi_assets import html_report

pytestmark = pytest.mark.slow  # looks at a whole run
LAUNCHED = ("raw_trips", "trips", "pickup_features", "dropoff_features", "training_set")


def section(page: str, name: str) -> str:
    found = re.search(f"<h2>{name}</h2>(.*?)</section>", page, re.DOTALL)
    assert found is not None, name
    return found[1]


def test_the_page_tells_what_a_run_made_and_what_it_took(first_run: Any) -> None:
    home, _ = first_run
    done = home.call("report")
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.strip()).read_text()
    trips = len(table_rows(home, "trips"))
    assert f"{trips:,}" in section(page, "Pipeline")
    assert f"{MONTHS[0]} to {MONTHS[-1]}" in section(page, "Pipeline")
    assert "promoted" in section(page, "Models")
    assert MONTHS[-1] in section(page, "Drift and live error")
    endpoint = section(page, "Endpoint")
    assert "READY" in endpoint
    (answered,) = re.findall(r"Queries answered</td><td[^>]*>([\d,]+)", endpoint)
    assert int(answered.replace(",", "")) > 0  # the check train_serve_parity has asked
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "<script" not in page


def test_every_step_on_spark_has_its_seconds_and_its_peak(first_run: Any) -> None:
    home, _ = first_run
    made = {each.asset: each for each in reversed(html_report.history(home.settings))}
    for name in LAUNCHED:
        assert (made[name].seconds or 0) > 0, name
        assert 0.01 < (made[name].peak or 0) < 3.5, name  # GiB; the driver has 3
    assert made["trips"].months == MONTHS
    assert made["trips"].rows == len(table_rows(home, "trips"))


def test_a_home_where_nothing_has_run_yet(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    page = html_report.write(settings).read_text()
    for name in ("Pipeline", "Models", "Drift and live error", "Time and memory"):
        assert section(page, name) == "<p>Nothing yet.</p>"
    assert "not running" in section(page, "Endpoint")
    assert not (settings.home / "dagster").exists()
