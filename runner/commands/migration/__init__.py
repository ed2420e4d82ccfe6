"""What `diff` reads, compares and prints."""
