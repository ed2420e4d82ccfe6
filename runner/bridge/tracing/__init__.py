"""What tracing shows of Linen modules: jaxprs, and which wrapped layers a host calls."""
