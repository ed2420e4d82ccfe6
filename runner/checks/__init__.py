"""Is this layer safe in Linen? One file a check."""
