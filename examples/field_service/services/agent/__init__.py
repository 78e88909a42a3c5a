"""Questions to an AI, as actions that change nothing."""
