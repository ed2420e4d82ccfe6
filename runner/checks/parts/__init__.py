"""Parts of checks that are a file of their own."""
