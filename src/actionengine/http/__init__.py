"""HTTP without a framework and without a socket: the parts that hosts repeat.

`context_from_headers` and `read_json` read a request, `to_response` makes the answer, and `openapi` describes an
engine's actions. A host adds its framework: routes, and the identity of its callers.

`__init__.pyi` lists the public names. Each is loaded when it is first used.
"""

from actionengine._lazy import attach

__getattr__, __dir__ = attach(__name__)
