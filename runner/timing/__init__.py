"""The clock, its statistics, and the machine that may disturb it."""
