"""Secrets stay out of logs and stored data: masking by name, type and value, and redaction of addresses."""
