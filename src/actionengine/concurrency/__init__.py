"""Locks, signals, threads and pauses for code that runs in both modes."""
