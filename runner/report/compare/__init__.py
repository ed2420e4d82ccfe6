"""Compares two sweeps, with one verdict."""
