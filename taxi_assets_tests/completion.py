"""What a shell is told for a command line that is not finished."""

from __future__ import annotations

from click.testing import CliRunner

from taxi_assets.cli import main


def completed(words: str, **environment: str) -> list[str]:
    """What bash offers for the last of the words."""
    asked = {
        "_TAXI_ASSETS_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        **environment,
    }
    done = CliRunner().invoke(main, [], prog_name="taxi-assets", env=asked)
    return [line.removeprefix("plain,") for line in done.output.split()]
