"""What traced programs show: draws, keys, callbacks, source lines."""
