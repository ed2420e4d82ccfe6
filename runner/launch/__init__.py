"""From a Hydra command to a sweep: in this process, or through joblib, Slurm or Ray."""
