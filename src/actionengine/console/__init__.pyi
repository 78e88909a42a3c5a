"""The public names of actionengine.console; `_lazy.attach` reads this table."""

from actionengine.console.application import create_console as create_console  # extra: console
from actionengine.console.callers import Identify as Identify  # extra: console
from actionengine.console.wsgi import as_wsgi as as_wsgi  # extra: console
