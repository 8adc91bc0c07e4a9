"""Ranks: launcher, rendezvous, process group, agreement, and failure of all together."""
