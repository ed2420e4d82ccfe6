"""Records, journals and results tables: what runs write, and where."""
