"""Home of the pytest plugin; nothing is registered with pytest yet."""
