"""Sharding plans: costs, hardware, report and picture."""
