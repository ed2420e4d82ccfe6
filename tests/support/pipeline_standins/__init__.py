"""Small stand-ins of ours for real pipelines: each keeps the contract that a layer inside meets, and nothing else."""
