"""The emulator: a loopback server that speaks a subset of the Databricks REST API."""
