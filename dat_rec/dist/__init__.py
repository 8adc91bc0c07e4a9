"""Ranks: process group, agreement, launcher, and failure of all together."""
