"""Assets, one module a group: which step makes which table, from which others, on which months."""
