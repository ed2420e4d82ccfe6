"""Check results: verdicts, classified differences, and the report."""
