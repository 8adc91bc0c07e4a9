"""The log's way to batches: sources, prepare, a dataset, validate, the stream of examples."""
