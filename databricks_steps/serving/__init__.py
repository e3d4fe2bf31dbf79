"""Serving: the request contract, the scorer, online tables and the endpoint, by the official SDK."""
