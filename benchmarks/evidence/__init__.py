"""Does it know when to stop, and is it better? `python -m benchmarks.evidence run | tune | report`, on the pocket model."""
