"""Measurements behind the claims of d4c, run from the repository as `python -m benchmarks.TOPIC.measure`."""
