"""Customers."""

from examples.field_service.db.collection import Collection
from examples.field_service.db.schema import Customer

customers = Collection("customers", Customer, "customer")
