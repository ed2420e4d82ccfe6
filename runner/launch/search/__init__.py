"""A sweep whose configs Optuna chooses."""
