"""Runs a sweep from a Hydra command: in this process, or through joblib, Slurm or Ray."""
