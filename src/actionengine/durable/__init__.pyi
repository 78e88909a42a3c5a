"""The public names of actionengine.durable; `_lazy.attach` reads this table."""

from actionengine.durable.database import DurableUnavailable as DurableUnavailable  # extra: workflows
from actionengine.durable.host import upgrade as upgrade  # extra: workflows
