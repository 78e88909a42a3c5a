"""One run of a workflow: its start, its steps, its stored state and its events."""
