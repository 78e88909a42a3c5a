"""Files of modules: opened without following links, written whole, and compared."""
