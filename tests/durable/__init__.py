"""The durable engine: leases, hosts, and runners behind a queue."""
