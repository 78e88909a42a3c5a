"""`InMemoryStorage`."""
