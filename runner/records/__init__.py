"""What runs leave, and where."""
