"""``dat-rec prepare``: a source's raw relations in, a dataset folder out."""
