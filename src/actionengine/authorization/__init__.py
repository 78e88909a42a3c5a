"""Who may do what: the port (`port`), roles kept in storage (`rbac`), roles kept in code (`static`)."""
