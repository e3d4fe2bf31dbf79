"""Serving: the request contract, the scorer, and online tables and endpoint by the SDK."""
