"""Module work with an idempotency key: it takes effect once."""
