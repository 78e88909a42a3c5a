"""Projections: views that are built from the event log."""
