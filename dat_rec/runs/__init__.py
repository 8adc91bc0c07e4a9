"""A run's folder: who writes in it, what it records, how it stands."""
