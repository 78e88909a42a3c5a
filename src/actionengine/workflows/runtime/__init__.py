"""The runtime that advances the runs of workflows."""
