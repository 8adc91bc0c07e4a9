"""Sharded tables: lookup, gradients, optimizer and initial weights over ranks."""
