"""Workflows: work that lasts longer than a request. Each of its steps is a governed action.

`workflow_services()` returns the services `workflows`, `triggers` and `workflow_assignments`, and the internal
`workflow_steps`, for `create_engine`. A `WorkflowRuntime` performs the steps of their runs, on the durable engine:

    engine = create_engine(services=[*workflow_services(), invoices], storage=storage)
    runtime = WorkflowRuntime(engine, "workflows.sqlite", relay_to=[…])

The services ask for the permissions of `WorkflowPermissions`. To use others, name them:
`workflow_services(permissions=WorkflowPermissions(activate="shop.activate"))`.

`__init__.pyi` lists the public names. Each is loaded when it is first used.
"""

from actionengine._lazy import attach

__getattr__, __dir__ = attach(__name__)
