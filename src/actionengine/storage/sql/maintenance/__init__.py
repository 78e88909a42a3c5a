"""The work of the owner of a database: partitions, retention, and tenants that leave."""
