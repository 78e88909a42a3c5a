"""actionengine: one governed pipeline for every change of state by people, AI agents, integrations and workflows.

`__init__.pyi` lists the public names. Each is loaded when it is first used.
"""

from actionengine._lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__ = attach(__name__)
