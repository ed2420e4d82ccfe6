"""Is this layer safe in Linen? One file per check."""
