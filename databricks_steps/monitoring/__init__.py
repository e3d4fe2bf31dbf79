"""Watching the model: drift against its training rows, payloads, live error, what to do."""
