"""`taxi-assets doctor`: what must be right before a run; it looks, and changes nothing."""

from taxi_assets.doctor.findings import Finding
from taxi_assets.doctor.groups import checks, examined

__all__ = ["Finding", "checks", "examined"]
