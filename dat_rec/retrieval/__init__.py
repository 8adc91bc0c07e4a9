"""Vectors at work: evaluation, export, recommendations."""
