"""Actions on invoices."""
