"""The commands of ``dat-rec``: options and what each does."""
