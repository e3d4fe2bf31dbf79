"""Assets, one module a group: which step makes which table, from which others, on which months."""

from taxi_assets import quiet

quiet.expect_warnings()  # before the modules' decorators warn
