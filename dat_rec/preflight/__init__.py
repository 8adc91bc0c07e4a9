"""What works on this machine and on this cluster, before hours are spent on it."""
