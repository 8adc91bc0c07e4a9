"""dat_rec: the Dual Augmented Two-tower model on TorchRec."""

__version__ = "0.1.0"
