"""Masking of secrets in logs and stored data, by name, type and value; redaction of addresses."""
