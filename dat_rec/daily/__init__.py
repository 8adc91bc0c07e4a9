"""``dat-rec daily``: the days of a log in; a dataset, a score, a run and an export of each out."""
