"""Checkpoints: a run's state on disk, whole or absent, under any sharding plan and world size."""
