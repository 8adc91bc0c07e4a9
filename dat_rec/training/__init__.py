"""Training: objective, optimizers, loop, watch and metrics."""
