"""For users' own tests: the pytest plugin."""
