"""A small field-service business: customers, jobs, payments. The hosts share it and differ only in transport."""
