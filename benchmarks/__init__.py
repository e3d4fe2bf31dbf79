"""Speed, measured by `python -m benchmarks NAME`: never in a test, always against a named limit."""
