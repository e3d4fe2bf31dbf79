"""The project's pages, and the command lines that they name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from databricks_steps.settings import REPOSITORY

PAGES = sorted(
    path
    for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"))
    if path.name != "CHANGELOG.md"  # tells of what was, too
)
CODE = re.compile(r"```(?:bash|sh)?\n(.*?)```|`([^`\n]+)`", re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Every command line of a page, in words; what is optional there counts as given."""
    found = []
    for block, inline in CODE.findall(page.read_text(encoding="utf-8")):
        for line in (block or inline).splitlines():
            for part in re.split(r"\s\|\s|;|&&", line.partition(" #")[0]):
                plain = re.sub(r"[\[\]…|]", " ", part)
                try:
                    words = shlex.split(plain)
                except ValueError:
                    continue  # an apostrophe: prose, no command
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                    words = words[1:]
                if words:
                    found.append(words)
    return found
