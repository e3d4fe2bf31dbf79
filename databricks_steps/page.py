"""Pages of HTML on one base, `templates/page.html`: no script, no link outward, text escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows under names; columns whose first value is a number are set as numbers.

    A cell that is "passed" or "failed" is set in its color.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def numeric(self) -> list[bool]:
        first = self.rows[0] if self.rows else [""] * len(self.names)
        return [isinstance(value, (int, float)) for value in first]


@dataclass(frozen=True)
class Figures:
    """Caption → SVG text."""

    pictures: Mapping[str, str]


@dataclass(frozen=True)
class Text:
    """A text in an element: a paragraph, or `pre` as it is. `tone` is "passed" or "failed"."""

    text: str
    tag: str = "p"
    tone: str = ""


Blocks = Sequence[Table | Figures | Text]


def render(title: str, sections: Mapping[str, Blocks], lead: Blocks = ()) -> str:
    """The page as one text: styles and pictures inside. `sections` is heading → blocks."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("databricks_steps"), autoescape=True, undefined=StrictUndefined
    )
    templates.filters |= {
        "figure": _figure,
        "base64": lambda text: base64.b64encode(text.encode()).decode(),
    }
    return templates.get_template("page.html").render(title=title, sections=sections, lead=lead)


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
