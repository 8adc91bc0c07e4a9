"""Which arm is better, and by how much: a study that anybody can run again.

In the order of its work: ``data`` (a log, with and without a validation span), ``arms`` (what is
compared, and the space that is searched), ``trial`` (one training and its figures, a process),
``processes`` (several side by side), ``records`` (a Parquet file for each trial), ``looks`` (who
has seen the test), ``search`` (which trials, and which setting is the best), ``means`` and
``tables`` (what came of it). ``python -m benchmarks.quality --help`` runs it.
"""
