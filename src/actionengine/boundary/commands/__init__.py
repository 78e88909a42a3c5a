"""Commands in modules: each runs in its own process, under a supervisor."""
