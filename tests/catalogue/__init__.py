"""The catalogue: descriptions, schemas, and what an actor may do."""
