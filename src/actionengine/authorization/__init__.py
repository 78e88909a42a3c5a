"""Access control: the port (`port`), roles in storage (`rbac`), roles in code (`static`)."""
