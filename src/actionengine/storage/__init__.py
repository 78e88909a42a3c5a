"""Storage: the ports, their values, and a folder for each backend."""
