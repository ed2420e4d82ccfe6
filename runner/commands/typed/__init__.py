"""What is typed: verbs, completion, the nearest path."""
