"""Applications of actionengine."""
