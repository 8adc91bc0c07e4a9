"""The log's way to batches: sources, prepared datasets, the reader."""
