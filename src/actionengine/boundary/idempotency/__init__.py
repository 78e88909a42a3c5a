"""Module work with an idempotency key, which takes effect once."""
