"""The catalogue: what an actor may do (`permissions`), described for people and agents (`descriptions`, `schemas`)."""
