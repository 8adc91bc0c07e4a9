"""A random walk over datasets, options and numbers of ranks: ``python -m tests.fuzz``."""
