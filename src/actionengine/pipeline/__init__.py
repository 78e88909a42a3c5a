"""One execution, from its guard to its commit."""
