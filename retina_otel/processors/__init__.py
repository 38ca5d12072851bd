"""Processors: what happens to batches on their way through a pipeline; none imports another."""
