"""`PostgresStorage`."""
