"""One file a kind of thing."""
