"""actionengine: one governed pipeline for every change of state, whoever asks.

Each name is loaded when it is first used, so that a program which declares actions does not load what executes them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actionengine.action_context import ActionContext
    from actionengine.actions import (
        Action,
        ActionHooks,
        ActionResultConfig,
        ActionSummary,
        ApprovalPolicy,
        HookDefinition,
        Service,
        ServiceSummary,
        create_action,
        create_actions,
        create_service,
        create_services,
    )
    from actionengine.authorization.port import AccessRequest, Authorizer, Decision
    from actionengine.authorization.rbac import RBACAuthorizer
    from actionengine.authorization.rules import Role, Rule
    from actionengine.authorization.static import StaticAuthorizer
    from actionengine.bootstrap import create_engine
    from actionengine.context import Actor, AIUsage, RequestContext, Tenant
    from actionengine.engine import Engine
    from actionengine.errors import (
        ActionError,
        ConfigurationError,
        DuplicateActionWarning,
        ErrorCode,
        ErrorCodeValue,
    )
    from actionengine.event_types import EventType, EventVersionError, create_event_type
    from actionengine.events.consumers.inbox import Inbox
    from actionengine.events.consumers.subscriptions import Subscriptions
    from actionengine.events.event import Event
    from actionengine.events.projections.projection import Projection, ProjectionStatus
    from actionengine.events.projections.views import AsyncLiveRecords, LiveRecords, View
    from actionengine.events.publishers.brokers import BrokerPublisher as BrokerPublisher
    from actionengine.events.publishers.eventbridge import EventBridgePublisher as EventBridgePublisher
    from actionengine.events.publishers.fanout import Fanout
    from actionengine.events.publishers.port import CallbackPublisher, Publisher, PublishError, PublisherUnavailable
    from actionengine.events.publishers.stdout import StdoutPublisher
    from actionengine.events.relay.relay import Relay
    from actionengine.events.replay import follow, follow_async, replay, replay_async
    from actionengine.hooks import HookContext, HookLog, HookLogEntry, PipelineResult
    from actionengine.masking.masking import Sensitive
    from actionengine.pipeline.payload import Limits
    from actionengine.storage.memory.storage import InMemoryStorage
    from actionengine.storage.port import (
        AsyncRecords,
        DeadLetter,
        OutboxStatus,
        Record,
        SerializationFailure,
        Storage,
        StorageError,
        StorageUnavailable,
        UnitOfWork,
    )
    from actionengine.storage.postgres.storage import PostgresStorage as PostgresStorage
    from actionengine.storage.records import Records
    from actionengine.storage.sql.protection import protect_table as protect_table
    from actionengine.storage.sqlite.storage import SQLiteStorage as SQLiteStorage

__version__ = "0.1.0"

__all__ = [
    "AIUsage",
    "AccessRequest",
    "Action",
    "ActionContext",
    "ActionError",
    "ActionHooks",
    "ActionResultConfig",
    "ActionSummary",
    "Actor",
    "ApprovalPolicy",
    "AsyncLiveRecords",
    "AsyncRecords",
    "Authorizer",
    "CallbackPublisher",
    "ConfigurationError",
    "DeadLetter",
    "Decision",
    "DuplicateActionWarning",
    "Engine",
    "ErrorCode",
    "ErrorCodeValue",
    "Event",
    "EventType",
    "EventVersionError",
    "Fanout",
    "HookContext",
    "HookDefinition",
    "HookLog",
    "HookLogEntry",
    "InMemoryStorage",
    "Inbox",
    "Limits",
    "LiveRecords",
    "OutboxStatus",
    "PipelineResult",
    "Projection",
    "ProjectionStatus",
    "PublishError",
    "Publisher",
    "PublisherUnavailable",
    "RBACAuthorizer",
    "Record",
    "Records",
    "Relay",
    "RequestContext",
    "Role",
    "Rule",
    "Sensitive",
    "SerializationFailure",
    "Service",
    "ServiceSummary",
    "StaticAuthorizer",
    "StdoutPublisher",
    "Storage",
    "StorageError",
    "StorageUnavailable",
    "Subscriptions",
    "Tenant",
    "UnitOfWork",
    "View",
    "create_action",
    "create_actions",
    "create_engine",
    "create_event_type",
    "create_service",
    "create_services",
    "follow",
    "follow_async",
    "replay",
    "replay_async",
]

_NAMES = {
    "actionengine.action_context": ("ActionContext",),
    "actionengine.actions": (
        "Action",
        "ActionHooks",
        "ActionResultConfig",
        "ActionSummary",
        "ApprovalPolicy",
        "HookDefinition",
        "Service",
        "ServiceSummary",
        "create_action",
        "create_actions",
        "create_service",
        "create_services",
    ),
    "actionengine.authorization.port": ("AccessRequest", "Authorizer", "Decision"),
    "actionengine.authorization.rbac": ("RBACAuthorizer",),
    "actionengine.authorization.rules": ("Role", "Rule"),
    "actionengine.authorization.static": ("StaticAuthorizer",),
    "actionengine.bootstrap": ("create_engine",),
    "actionengine.context": ("Actor", "AIUsage", "RequestContext", "Tenant"),
    "actionengine.engine": ("Engine",),
    "actionengine.errors": (
        "ActionError",
        "ConfigurationError",
        "DuplicateActionWarning",
        "ErrorCode",
        "ErrorCodeValue",
    ),
    "actionengine.event_types": ("EventType", "EventVersionError", "create_event_type"),
    "actionengine.events.publishers.brokers": ("BrokerPublisher",),
    "actionengine.events.event": ("Event",),
    "actionengine.events.publishers.eventbridge": ("EventBridgePublisher",),
    "actionengine.events.publishers.fanout": ("Fanout",),
    "actionengine.events.consumers.inbox": ("Inbox",),
    "actionengine.events.projections.projection": ("Projection", "ProjectionStatus"),
    "actionengine.events.projections.views": ("AsyncLiveRecords", "LiveRecords", "View"),
    "actionengine.events.publishers.port": ("CallbackPublisher", "Publisher", "PublisherUnavailable", "PublishError"),
    "actionengine.events.relay.relay": ("Relay",),
    "actionengine.events.replay": ("follow", "follow_async", "replay", "replay_async"),
    "actionengine.events.consumers.subscriptions": ("Subscriptions",),
    "actionengine.hooks": ("HookContext", "HookLog", "HookLogEntry", "PipelineResult"),
    "actionengine.masking.masking": ("Sensitive",),
    "actionengine.pipeline.payload": ("Limits",),
    "actionengine.storage.memory.storage": ("InMemoryStorage",),
    "actionengine.events.publishers.stdout": ("StdoutPublisher",),
    "actionengine.storage.port": (
        "AsyncRecords",
        "DeadLetter",
        "OutboxStatus",
        "Record",
        "SerializationFailure",
        "Storage",
        "StorageError",
        "StorageUnavailable",
        "UnitOfWork",
    ),
    "actionengine.storage.postgres.storage": ("PostgresStorage",),
    "actionengine.storage.records": ("Records",),
    "actionengine.storage.sql.protection": ("protect_table",),
    "actionengine.storage.sqlite.storage": ("SQLiteStorage",),
}
# What needs an extra is not part of `import *`, which has to work without.
_EXTRAS = {
    "BrokerPublisher": "brokers",
    "EventBridgePublisher": "eventbridge",
    "PostgresStorage": "postgres",
    "SQLiteStorage": "sql",
    "protect_table": "sql",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'actionengine' has no attribute {name!r}")
    try:
        value = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(name)
        if extra is None or (error.name or "").startswith("actionengine"):
            raise
        raise ImportError(f"{name} needs {error.name}: pip install 'actionengine[{extra}]'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__, *_EXTRAS))
