"""What verbs do with saved runs and sweeps."""
