"""`SQLiteStorage`."""
