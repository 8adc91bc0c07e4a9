"""Ranks: process group, sharding plan, cross-rank gradients, initial tables."""
