"""Where state lives: the ports (`port`), and one file a backend."""
