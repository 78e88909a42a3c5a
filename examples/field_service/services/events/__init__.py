"""The live feed of events."""
