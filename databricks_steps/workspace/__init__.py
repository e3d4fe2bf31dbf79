"""The embedded workspace: a loopback server that speaks a subset of the Databricks REST API."""
