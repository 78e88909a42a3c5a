"""Actions on jobs."""
