"""Locks, signals and drivers that work in threads and in event loops."""
