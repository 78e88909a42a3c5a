"""The execution boundary: work that touches files, commands and networks, with explicit capabilities."""
