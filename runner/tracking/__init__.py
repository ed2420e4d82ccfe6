"""Runs shown on Weights & Biases or TensorBoard."""
