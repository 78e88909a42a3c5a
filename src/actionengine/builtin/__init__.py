"""The built-in services: approvals, the action log, roles. Actions like any other."""
