"""What a layer's own Python code is given, reads and keeps, which no trace shows."""
