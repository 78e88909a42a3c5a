"""Consumers of events: inboxes and subscriptions."""
