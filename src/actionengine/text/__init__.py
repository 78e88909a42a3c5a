"""Rules for texts: the spelling of names, and the bounds of JSON."""
