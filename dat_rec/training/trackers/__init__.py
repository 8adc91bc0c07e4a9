"""A run's curves in MLflow and Weights & Biases, beside TensorBoard's: docs/trackers.md."""
