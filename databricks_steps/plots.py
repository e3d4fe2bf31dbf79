"""Pictures, each as a small SVG text drawn without a screen.

Lines by matplotlib; bars, heat maps and maps of the city by hand, which is a hundred times as fast.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from io import StringIO
from itertools import pairwise
from math import cos, floor, isnan, log10, radians
from typing import Any

SHARED_PLOTS = __name__  # what each picture is made by, for a fingerprint
BLUE, PALE, GREY, INK = "#1f6feb", "#b6d4fe", "#8b949e", "#1f2328"
_SIZE = (5.6, 3.2)  # inches
# Of no value, then from low to high.
_SHADES = ("#eef1f4", "#fff3c4", "#fdd68a", "#f9a55f", "#ec6b45", "#bd2c2c")
_MAP = (1000, 1000)  # the units of zones_map.csv
_NAMES, _BARS, _ROW = 190, 330, 18  # of bars and heat maps: places of names and of values, pixels


def axes_of(x: str, y: str, height: float = _SIZE[1]) -> tuple[Any, Any]:
    """A figure and its axes with labels; `height` in inches."""
    from matplotlib.figure import Figure  # not pyplot: no screen, no global state

    figure = Figure(figsize=(_SIZE[0], height))
    # Matplotlib's own layout draws everything twice.
    figure.subplots_adjust(left=0.11, right=0.97, top=1 - 0.15 / height, bottom=0.55 / height)
    axes = figure.subplots()
    axes.set_xlabel(x, fontsize=8, color=INK)
    axes.set_ylabel(y, fontsize=8, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def from_zero(axes: Any) -> None:
    """What is drawn stands on zero, with some room above, for a single point, too."""
    most = axes.dataLim.y1
    axes.set_ylim(0, most * 1.08 if 0 < most < float("inf") else 1)


def svg(figure: Any) -> str:
    """The same picture gives the same text; letters stay letters, which keeps it small."""
    from matplotlib import rc_context

    buffer = StringIO()
    with rc_context({"svg.hashsalt": "taxi-assets", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


@dataclass(frozen=True)
class _Scale:
    """Shades from low to high; what lies beyond is as what lies at the end."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> _Scale:
        """From the lowest twentieth of the values to the highest."""
        ranked = sorted(value for value in values if not isnan(value)) or [0.0]
        return cls(ranked[int(len(ranked) * 0.05)], ranked[int(len(ranked) * 0.95)])

    def shade(self, value: float | None) -> str:
        if value is None or isnan(value):
            return _SHADES[0]
        steps = len(_SHADES) - 1
        place = int((value - self.low) / ((self.high - self.low) or 1.0) * steps)
        return _SHADES[1 + min(steps - 1, max(0, place))]

    def legend(self, unit: str, left: int, top: int, size: int) -> str:
        """The shades with their bounds, in a column."""
        steps = len(_SHADES) - 1
        bounds = [self.low + (self.high - self.low) * n / steps for n in range(1, steps)]
        texts = [f"under {bounds[0]:.3g}", *(f"{a:.3g} to {b:.3g}" for a, b in pairwise(bounds))]
        parts = [_text(left, top + size, unit, size)]
        for n, told in enumerate([*texts, f"{bounds[-1]:.3g} and more"], 1):
            y = top + round(n * 1.5 * size)
            parts.append(
                f'<rect x="{left}" y="{y}" width="{size}" height="{size}" fill="{_SHADES[n]}"/>'
            )
            parts.append(_text(left + round(1.5 * size), y + round(0.85 * size), told, size))
        return "".join(parts)


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    unit: str,
    bounds: tuple[float, float] | None = None,
) -> str:
    """Values (rows, columns) as shades, NaN as nothing; what lies beyond the bounds as those."""
    scale = _Scale(*bounds) if bounds else _Scale.of(v for row in values for v in row)
    width = _BARS / max(len(columns), 1)
    by_shade = dict.fromkeys(_SHADES, "")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            corner = f"M{_NAMES + x * width:.1f} {y * _ROW}"
            by_shade[scale.shade(value)] += f"{corner}h{width - 1:.1f}v{_ROW - 1}h-{width - 1:.1f}z"
    step = len(columns) // 8 + 1
    labels = [
        *(_text(_NAMES - 6, (y + 0.75) * _ROW, name, 11, "end") for y, name in enumerate(rows)),
        *(
            _text(_NAMES + (x + 0.5) * width, (len(rows) + 0.8) * _ROW, columns[x], 10, "middle")
            for x in range(0, len(columns), step)
        ),
    ]
    cells = "".join(f'<path d="{path}" fill="{shade}"/>' for shade, path in by_shade.items())
    legend = scale.legend(unit, _NAMES + _BARS + 14, 0, 11)
    height = max(len(rows) + 1.2, 6) * _ROW
    beside = max(140, 20 + 7 * len(unit))  # a letter of size 11 is 7 wide at most, but for a few
    return _whole(_NAMES + _BARS + beside, height, cells + "".join(labels) + legend)


def bars(
    values: Mapping[str, float],
    unit: str,
    *,
    logarithmic: bool = False,
    marks: Mapping[str, float] | None = None,
    marked: str = "",
) -> str:
    """A bar for each name, from the top down, with its value; `marks` are lines across some.

    A logarithmic bar begins at the power of ten below the least value; values are above 0 then.
    """
    every = [*values.values(), *(marks or {}).values()]
    most = max(every, default=1.0) or 1.0
    least = 10.0 ** floor(log10(min(every))) if logarithmic and every else 0.0

    def length(value: float) -> float:
        share = log10(value / least) / (log10(most / least) or 1) if logarithmic else value / most
        return _BARS * max(share, 0.0)

    parts = []
    for y, (name, value) in enumerate(values.items()):
        top = y * _ROW
        parts.append(_text(_NAMES - 6, top + 0.75 * _ROW, name, 11, "end"))
        parts.append(
            f'<rect x="{_NAMES}" y="{top + 1}" width="{length(value):.1f}" '
            f'height="{_ROW - 3}" fill="{PALE}"/>'
        )
        at = length(value)
        if marks and name in marks:
            mark = length(marks[name])
            parts.append(
                f'<path d="M{_NAMES + mark:.1f} {top}v{_ROW - 1}" stroke="{BLUE}" '
                'stroke-width="3"/>'
            )
            at = max(at, mark)
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
        parts.append(_text(_NAMES + at + 5, top + 0.75 * _ROW, shown, 11))
    below = f"{unit}{', logarithmic' if logarithmic else ''}"
    below += f"; line: {marked}" if marks else ""
    parts.append(_text(_NAMES, (len(values) + 0.8) * _ROW, below, 11))
    return _whole(_NAMES + _BARS + 60, (len(values) + 1.2) * _ROW, "".join(parts))


def zone_map(values: Mapping[int, float], unit: str, paths: Mapping[int, str] | None = None) -> str:
    """Zones by value; `paths` (zone → outline) stand in for the city's own."""
    scale = _Scale.of(values.values())
    by_shade = dict.fromkeys(_SHADES, "")
    for zone, path in (paths or city()).items():
        by_shade[scale.shade(values.get(zone))] += path
    shapes = "".join(f'<path d="{path}" fill="{color}"/>' for color, path in by_shade.items())
    zones = f'<g stroke="#fff" stroke-width="1">{shapes}</g>'
    return _whole(*_MAP, zones + scale.legend(unit, 20, 10, 20))


def _text(x: float, y: float, text: str, size: int, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{INK}">{escape(text)}</text>'
    )


def _whole(width: float, height: float, parts: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="sans-serif"><rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>'
        f"{parts}</svg>"
    )


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
