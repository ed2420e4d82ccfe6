"""What a sweep writes, and what it removes."""
