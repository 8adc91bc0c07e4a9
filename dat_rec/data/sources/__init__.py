"""One file for each source that `dat-rec prepare` reads."""
