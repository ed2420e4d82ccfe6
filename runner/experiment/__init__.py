"""One run, in memory. Read `execute` first."""
