"""``dat-rec validate``: a dataset's folder in, its faults out."""
