"""Bringing a version to an endpoint: online store, endpoint, plan, rollback."""
