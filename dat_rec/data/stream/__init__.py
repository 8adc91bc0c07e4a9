"""Reading: a dataset's example files in, every rank's batches out, in an order that is fixed."""
