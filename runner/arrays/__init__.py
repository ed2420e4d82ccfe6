"""Pytrees of arrays: naming, digests, comparison, device placement, checkpoints."""
