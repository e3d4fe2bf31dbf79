"""Assets, one module a group: which step makes which table, from which others, on which months."""

from taxi_assets.resources.targets import ignore_expected_warnings

ignore_expected_warnings()  # before the modules' decorators warn
