"""The workspaces of the workspace's own tests, for those that read what a server captured."""

from taxi_assets_tests.taxi_assets.emulator.conftest import start, template

__all__ = ["start", "template"]
