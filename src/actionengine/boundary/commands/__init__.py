"""Commands in modules: each runs under a supervisor, in its own process."""
