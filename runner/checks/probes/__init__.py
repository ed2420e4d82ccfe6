"""What tracing shows of a module."""
