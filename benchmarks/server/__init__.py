"""The running app under attack and under load: `python -m benchmarks.server`."""
