"""Training: objective, optimizers, loop, checkpoints, logging."""
