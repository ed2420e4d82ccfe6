"""Linen modules around a layer."""
