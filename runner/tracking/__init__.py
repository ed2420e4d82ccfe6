"""Trackers: log runs to Weights & Biases or TensorBoard."""
