"""Definitions of workflows as data: steps, triggers, schedules and their checks."""
