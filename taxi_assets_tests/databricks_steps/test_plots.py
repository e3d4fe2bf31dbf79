"""Pictures drawn by hand: what stands in them, and what becomes of nothing."""

from __future__ import annotations

import json
import re
from math import nan
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from databricks_steps import plots
from databricks_steps.distributions import FINE, PLACES, Bins
from databricks_steps.monitoring.plots import bars_of, outlines
from databricks_steps.trips import zones

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [str(each.text) for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_bars_are_as_long_as_their_values_and_marks_stand_where_they_are() -> None:
    drawn = plots.bars({"a": 1.0, "<b>": 4.0}, "dollars", marks={"a": 2.0}, marked="then")
    root = ElementTree.fromstring(drawn)
    lengths = [float(each.attrib["width"]) for each in root.iter(f"{SVG}rect")][1:]
    assert lengths[1] == 4 * lengths[0]
    (mark,) = root.iter(f"{SVG}path")
    assert float(mark.attrib["d"][1:].split()[0]) == plots._NAMES + lengths[1] / 2
    assert texts(drawn) == ["a", "1", "<b>", "4", "dollars; line: then"]


def test_a_logarithmic_bar_begins_at_a_power_of_ten() -> None:
    root = ElementTree.fromstring(plots.bars({"a": 20, "b": 1_000}, "trips", logarithmic=True))
    long, short = (float(each.attrib["width"]) for each in [*root.iter(f"{SVG}rect")][:0:-1])
    assert short / long == pytest.approx(0.3010 / 2, abs=0.001)


def test_a_feature_of_few_values_has_a_bar_for_each_and_no_gap() -> None:
    hours = np.repeat(np.arange(24.0), 3)
    for values, bars in ((hours, 24), (np.linspace(0, 60, 5_000), 32), (np.zeros(9), 32)):
        bins = Bins.of(values)
        counts = np.bincount(bins.places(values), minlength=PLACES)[2 : 2 + FINE]
        edges, (first, second) = bars_of(bins, [counts, 2 * counts])
        assert (len(edges), len(first)) == (bars + 1, bars)
        assert first.sum() == counts.sum()
        assert (second == 2 * first).all()
        assert (np.diff(edges) > 0).all()
        if bars == 24:
            assert (first == 3).all()
            assert edges == pytest.approx(np.arange(25) - 0.5, abs=0.2)


@pytest.mark.parametrize("values", [{}, {"a": 0.0}, {"a": 7}])
def test_nothing_and_one_are_drawn(values: dict[str, float]) -> None:
    for logarithmic in (False, True):
        if not (logarithmic and 0.0 in values.values()):
            assert texts(plots.bars(values, "x", logarithmic=logarithmic))


def test_a_heat_map_has_a_cell_for_each_value_and_a_shade_for_each_fifth() -> None:
    drawn = plots.heat_map(["Mon", "Tue"], ["0", "1", "2"], [[0, 1, nan], [9, 5, 3]], "x", (0, 5))
    paths = ElementTree.fromstring(drawn).iter(f"{SVG}path")
    cells = {each.attrib["fill"]: each.attrib["d"].count("M") for each in paths}
    assert [cells[shade] for shade in plots._SHADES] == [1, 1, 1, 0, 1, 2]
    assert texts(drawn)[:2] == ["Mon", "Tue"]
    assert texts(plots.heat_map([], [], [], "x"))


def test_a_long_unit_stays_inside_the_picture() -> None:
    unit = "standard deviations moved"
    root = ElementTree.fromstring(plots.heat_map(["Mon"], ["0"], [[1]], unit))
    (told,) = (each for each in root.iter(f"{SVG}text") if each.text == unit)
    assert float(told.attrib["x"]) + 6.2 * len(unit) <= float(root.attrib["viewBox"].split()[2])


@pytest.mark.parametrize(("values", "top"), [([], 1), ([0.0], 1), ([1.2], 1.296), ([1, 3], 3.24)])
def test_lines_stand_on_zero_with_room_above(values: list[float], top: float) -> None:
    _, axes = plots.axes_of("x", "y")
    axes.plot(values)
    plots.from_zero(axes)
    assert axes.get_ylim() == pytest.approx((0, top))


def test_the_map_has_the_city_s_zones_and_shows_those_with_values() -> None:
    assert {*plots.city()} <= {number for name in zones.NAMES for number in zones.zones_of(name)}
    assert len(plots.city()) == 260
    values = {1: 10.0, 132: 20.0, 999: 5.0}
    fills = re.findall(r'd="([^"]*)" fill="([^"]*)"', plots.zone_map(values, "dollars"))
    assert {fill for path, fill in fills if plots.city()[132] in path} == {plots._SHADES[-1]}
    assert {fill for path, fill in fills if plots.city()[4] in path} == {plots._SHADES[0]}
    ElementTree.fromstring(plots.zone_map({}, "dollars"))


def test_outlines_of_other_zones_fill_the_map(tmp_path: Path) -> None:
    square = [[[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0], [0.0, 0.0]]]
    geometry = {"type": "Polygon", "coordinates": square}
    zone = {"properties": {"LocationID": 7}, "geometry": geometry}
    file = tmp_path / "zones.geojson"
    file.write_text(json.dumps({"features": [zone]}))
    (path,) = outlines(file).values()
    assert path == "M0 1000L1000 1000L1000 0L0 0L0 1000z"
