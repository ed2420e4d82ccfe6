"""What verbs derive from a run and write, and read back."""
