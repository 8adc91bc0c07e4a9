"""The model and its losses: one device, no ranks."""
