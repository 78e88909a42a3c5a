"""The relay: it delivers the events of the outbox to publishers."""
