"""conf/ as typed settings."""
