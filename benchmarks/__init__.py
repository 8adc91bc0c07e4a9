"""One script for each question; every one has a ``--smoke`` mode, which CI runs."""
