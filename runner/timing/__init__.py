"""Timing: measurement, statistics, machine fingerprints, and exclusive access while timing."""
