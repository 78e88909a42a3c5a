"""The built-in service `action_log`: its declaration."""

from __future__ import annotations

from functools import partial

from actionengine.actions import Service, create_service
from actionengine.builtin.action_log import READ_PERMISSION, GetExecution, LogListing, get_execution, list_executions
from actionengine.builtin.cause_tree import TreeOf, tree
from actionengine.builtin.declarations import declare

_reading = partial(declare, permission=READ_PERMISSION, read_only=True)

action_log: Service = create_service(
    name="action_log",
    description="The executions of actions: who changed what, when and why",
    actions=[
        _reading(
            "list",
            "Executions by subject, actor, action, outcome, time, request, approval, or words of the reason, newest "
            "first",
            list_executions,
            LogListing,
        ),
        _reading("get", "One execution", get_execution, GetExecution),
        _reading(
            "tree",
            "The tree of causes around an execution, an approval, an event or a run: the cause of all, and what came "
            "of it",
            tree,
            TreeOf,
        ),
    ],
)
