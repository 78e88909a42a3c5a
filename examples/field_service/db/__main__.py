"""`python -m examples.field_service.db OWNER_URL` makes the business's tables, after `actionengine db upgrade`."""

import sys

from examples.field_service.db.tables import create_tables

create_tables(*sys.argv[1:])
