"""Training: a run on disk in, a stream of events out."""
