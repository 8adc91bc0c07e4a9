"""Recommendations over HTTP: ``dat-rec serve``."""
