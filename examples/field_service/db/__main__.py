"""`python -m examples.field_service.db OWNER_URL`: make the tables of the business and of the durable engine.

Run it after `actionengine db upgrade`."""

import sys

from actionengine.durable.host import upgrade
from examples.field_service.db.tables import APP_ROLE, create_tables

(owner_url,) = sys.argv[1:]
create_tables(owner_url)
upgrade(owner_url, app_role=APP_ROLE)
