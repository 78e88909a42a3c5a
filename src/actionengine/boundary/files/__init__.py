"""Files of modules: opened without following links, written completely or not at all, and compared."""
