"""Data access: tables, schemas, and model functions that return a `Result`. Handlers call these and hold no queries."""
