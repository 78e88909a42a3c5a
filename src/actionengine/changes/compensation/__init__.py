"""Changes that take back other changes."""
