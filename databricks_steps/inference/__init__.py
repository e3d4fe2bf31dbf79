"""The model's contract: what a request is, what is looked up, and fares of it, one or a table."""
