"""Two sweeps compared, with one verdict."""
