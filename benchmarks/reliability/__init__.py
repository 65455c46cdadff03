"""Ends of every kind while something is being written, and what is left of a run then: `python -m benchmarks.reliability`."""
