"""Files that want to do harm, or were damaged, and what becomes of them: `python -m benchmarks.hostile`. All made by code."""
