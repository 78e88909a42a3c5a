"""The execution boundary: work on files, commands and networks, with explicit capabilities.

A runner runs module actions in modules. A module is a folder of one tenant, and a profile limits what may be done:

    runner = InProcessRunner(CODE_MODULE_DEFAULT)
    module = ModuleRoots("/srv/modules").context(tenant, "website")
    request = ExecutionRequest(
        tenant=tenant, module=module, action="read", input={"path": "index.html"}, capabilities={"fs:read"}
    )
    match runner.execute(request): …

`modules_service` turns module actions into governed actions. Diffs need the extra `changes`.

`__init__.pyi` lists the public names. Each is loaded when it is first used.
"""

from actionengine._lazy import attach

__getattr__, __dir__ = attach(__name__)
