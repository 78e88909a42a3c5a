"""The schemas of record types."""
