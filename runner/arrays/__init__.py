"""Trees of arrays: named, digested, compared, placed on devices, saved."""
