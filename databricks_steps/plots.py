"""Pictures, each as a small SVG text drawn without a screen: axes, heat maps, the city's zones."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from io import StringIO
from itertools import pairwise
from math import cos, radians
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

BLUE, PALE, GREY, INK = "#1f6feb", "#b6d4fe", "#8b949e", "#1f2328"
_SIZE = (5.6, 3.2)  # inches
_SHADES = (
    "#eef1f4",
    "#fff3c4",
    "#fdd68a",
    "#f9a55f",
    "#ec6b45",
    "#bd2c2c",
)  # no value, low to high
_MAP = (1000, 1000)  # the units of zones_map.csv


def axes_of(x: str, y: str, height: float = _SIZE[1]) -> tuple[Any, Any]:
    """A figure and its axes with labels; `height` in inches."""
    from matplotlib.figure import Figure  # not pyplot: no screen, no global state

    figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x, fontsize=8, color=INK)
    axes.set_ylabel(y, fontsize=8, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg(figure: Any) -> str:
    """The same picture gives the same text; letters stay letters, which keeps it small."""
    from matplotlib import rc_context

    buffer = StringIO()
    with rc_context({"svg.hashsalt": "taxi-assets", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Array,
    unit: str,
    bounds: tuple[float | None, float | None] = (None, None),
) -> str:
    """Values (rows, columns) as shades, NaN as nothing; what lies beyond the bounds as those."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("shades", _SHADES[1:])
    figure, axes = axes_of("", "", height=0.9 + 0.2 * len(rows))
    drawn = axes.imshow(values, cmap=shades, aspect="auto", vmin=bounds[0], vmax=bounds[1])
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    step = len(columns) // 12 + 1
    axes.set_xticks(range(0, len(columns), step), columns[::step], fontsize=7)
    bar = figure.colorbar(drawn, ax=axes, pad=0.02)
    bar.set_label(unit, fontsize=7, color=INK)
    bar.ax.tick_params(labelsize=7)
    return svg(figure)


def zone_map(values: Mapping[int, float], unit: str, paths: Mapping[int, str] | None = None) -> str:
    """Zones by value; the darkest twentieth is one shade. `paths` stand in for the city's own."""
    ranked = sorted(values.values())
    top = ranked[int(len(ranked) * 0.95)] if ranked else 1.0
    low = ranked[int(len(ranked) * 0.05)] if ranked else 0.0
    steps = len(_SHADES) - 1

    def shade(zone: int) -> int:
        if zone not in values:
            return 0
        share = (values[zone] - low) / (top - low or 1.0)
        return 1 + min(steps - 1, max(0, int(share * steps)))

    by_shade = dict.fromkeys(_SHADES, "")
    for zone, path in (paths or city()).items():
        by_shade[_SHADES[shade(zone)]] += path
    shapes = "".join(f'<path d="{path}" fill="{color}"/>' for color, path in by_shade.items())
    bounds = [low + (top - low) * n / steps for n in range(1, steps)]
    legend = "".join(
        f'<rect x="20" y="{40 + 30 * n}" width="24" height="24" fill="{color}"/>'
        f'<text x="54" y="{59 + 30 * n}">{escape(text)}</text>'
        for n, (color, text) in enumerate(zip(_SHADES[1:], _steps(bounds), strict=True))
    )
    width, height = _MAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="20" '
        f'font-family="sans-serif"><rect width="{width}" height="{height}" fill="#fff"/>'
        f'<g stroke="#fff" stroke-width="1">{shapes}</g>'
        f'<text x="20" y="26">{escape(unit)}</text>{legend}</svg>'
    )


def _steps(bounds: Sequence[float]) -> Iterable[str]:
    yield f"under {bounds[0]:.3g}"
    for low, high in pairwise(bounds):
        yield f"{low:.3g} to {high:.3g}"
    yield f"{bounds[-1]:.3g} and more"


def projected(rings: Mapping[int, Sequence[Sequence[Sequence[float]]]]) -> dict[int, str]:
    """Zone → its rings of longitude and latitude, as one SVG path in the units of a map."""
    every = [point for of_zone in rings.values() for ring in of_zone for point in ring]
    west, east = min(x for x, _ in every), max(x for x, _ in every)
    south, north = min(y for _, y in every), max(y for _, y in every)
    narrow = cos(radians((south + north) / 2))  # a degree of longitude against one of latitude
    scale = min(_MAP[0] / ((east - west) * narrow or 1.0), _MAP[1] / (north - south or 1.0))

    def path(ring: Sequence[Sequence[float]]) -> str:
        points = (((x - west) * narrow * scale, (north - y) * scale) for x, y in ring)
        return f"M{'L'.join(f'{x:.0f} {y:.0f}' for x, y in points)}z"

    return {zone: "".join(map(path, of_zone)) for zone, of_zone in rings.items()}


@cache
def city() -> Mapping[int, str]:
    """Zone → its outline as an SVG path, of `zones_map.csv`: TLC's zone map to about 100 meters."""
    text = files("databricks_steps.trips").joinpath("zones_map.csv").read_text(encoding="utf-8")
    return {int(row["location_id"]): row["path"] for row in csv.DictReader(text.splitlines())}
