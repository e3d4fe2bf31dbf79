"""`taxi-assets replay`: captured requests on any version, and what it found as a text."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from taxi_assets import quiet
from taxi_assets.resources.targets import Target

if TYPE_CHECKING:
    from databricks_steps.monitoring.replay import Replay


def replay(target: Target, hours: str, version: str, as_json: bool) -> str:
    """Captured requests on a version, against what was answered; see `monitoring.replay`."""
    from databricks_steps.monitoring import replay as again
    from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
    from taxi_assets.emulator.runtime import capture

    since, until = again.between(hours, datetime.now(timezone.utc))
    quiet.settle(target.settings)
    capture.flush(target.settings)  # also what was asked a second ago
    found = again.replay(EmbeddedPlatform(target.settings), version, since, until)
    return json.dumps(found.to_json(), indent=2) if as_json else _text(found)


def _text(found: Replay) -> str:
    by = ", ".join(f"version {name}: {trips:,}" for name, trips in found.answered_by.items())
    spread = ", ".join(f"{name} {size:.4f}" for name, size in found.quantiles.items())
    asked = f"{found.requests:,} requests for {found.trips:,} trips"
    lines = [
        f"version {found.version} on {asked}, asked from {found.since} until {found.until}",
        f"answered by {by}",
        f"{found.different:,} differences of more than {found.tolerance:g} dollars",
        f"largest {found.largest:.4f}, mean {found.mean:+.4f}, sizes: {spread}",
    ]
    lines += [
        f"  {each.request_id} row {each.request_row}: {each.answered:.4f} answered, "
        f"{each.replayed:.4f} now ({each.dollars:+.4f})"
        for each in found.worst
    ]
    if found.looked_up_now:
        lines.append(
            f"features of {found.looked_up_now:,} trips were not captured, but looked up now"
        )
    lines += [f"{count:,} requests left out: {why}" for why, count in found.skipped.items()]
    return "\n".join(lines)
