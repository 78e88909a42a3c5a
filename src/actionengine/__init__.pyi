"""The public names of actionengine; `_lazy.attach` reads this table."""

from actionengine.action_context import ActionContext as ActionContext
from actionengine.actions import Action as Action
from actionengine.actions import ActionHooks as ActionHooks
from actionengine.actions import ActionResultConfig as ActionResultConfig
from actionengine.actions import ActionSummary as ActionSummary
from actionengine.actions import ApprovalPolicy as ApprovalPolicy
from actionengine.actions import HookDefinition as HookDefinition
from actionengine.actions import Service as Service
from actionengine.actions import ServiceSummary as ServiceSummary
from actionengine.actions import always as always
from actionengine.actions import create_action as create_action
from actionengine.actions import create_actions as create_actions
from actionengine.actions import create_service as create_service
from actionengine.actions import create_services as create_services
from actionengine.agents.claims import actor_from_claims as actor_from_claims
from actionengine.agents.results import ToolResult as ToolResult
from actionengine.agents.tools import Tools as Tools
from actionengine.authorization.port import AccessRequest as AccessRequest
from actionengine.authorization.port import Authorizer as Authorizer
from actionengine.authorization.port import BulkAuthorizer as BulkAuthorizer
from actionengine.authorization.port import Decision as Decision
from actionengine.authorization.port import LimitedDecision as LimitedDecision
from actionengine.authorization.rbac import RBACAuthorizer as RBACAuthorizer
from actionengine.authorization.rules import Role as Role
from actionengine.authorization.rules import Rule as Rule
from actionengine.authorization.static import StaticAuthorizer as StaticAuthorizer
from actionengine.bootstrap import create_engine as create_engine
from actionengine.builtin.operators import operator_role as operator_role
from actionengine.catalogue.descriptions import ActionDescription as ActionDescription
from actionengine.catalogue.permissions import Permission as Permission
from actionengine.console.application import create_console as create_console  # extra: console
from actionengine.context import Actor as Actor
from actionengine.context import AIUsage as AIUsage
from actionengine.context import RequestContext as RequestContext
from actionengine.context import Tenant as Tenant
from actionengine.engine import BlockingEngine as BlockingEngine
from actionengine.engine import Engine as Engine
from actionengine.errors import ActionError as ActionError
from actionengine.errors import ConfigurationError as ConfigurationError
from actionengine.errors import DuplicateActionWarning as DuplicateActionWarning
from actionengine.errors import ErrorCode as ErrorCode
from actionengine.errors import ErrorCodeValue as ErrorCodeValue
from actionengine.event_types import EventType as EventType
from actionengine.event_types import EventVersionError as EventVersionError
from actionengine.event_types import create_event_type as create_event_type
from actionengine.events.consumers.inbox import Inbox as Inbox
from actionengine.events.consumers.subscriptions import Subscriptions as Subscriptions
from actionengine.events.event import Event as Event
from actionengine.events.projections.projection import Projection as Projection
from actionengine.events.projections.projection import ProjectionStatus as ProjectionStatus
from actionengine.events.projections.views import AsyncLiveRecords as AsyncLiveRecords
from actionengine.events.projections.views import LiveRecords as LiveRecords
from actionengine.events.projections.views import View as View
from actionengine.events.publishers.brokers import BrokerPublisher as BrokerPublisher  # extra: brokers
from actionengine.events.publishers.eventbridge import (
    EventBridgePublisher as EventBridgePublisher,  # extra: eventbridge
)
from actionengine.events.publishers.fanout import Fanout as Fanout
from actionengine.events.publishers.port import CallbackPublisher as CallbackPublisher
from actionengine.events.publishers.port import Publisher as Publisher
from actionengine.events.publishers.port import PublishError as PublishError
from actionengine.events.publishers.port import PublisherUnavailable as PublisherUnavailable
from actionengine.events.publishers.stdout import StdoutPublisher as StdoutPublisher
from actionengine.events.relay.relay import Relay as Relay
from actionengine.events.replay import follow as follow
from actionengine.events.replay import follow_async as follow_async
from actionengine.events.replay import replay as replay
from actionengine.events.replay import replay_async as replay_async
from actionengine.hooks import HookContext as HookContext
from actionengine.hooks import HookLog as HookLog
from actionengine.hooks import HookLogEntry as HookLogEntry
from actionengine.hooks import PipelineResult as PipelineResult
from actionengine.masking.secret_types import Sensitive as Sensitive
from actionengine.mcp.identity import MCPRequest as MCPRequest  # extra: mcp
from actionengine.mcp.server import create_mcp_server as create_mcp_server  # extra: mcp
from actionengine.pipeline.budgets import Budget as Budget
from actionengine.pipeline.capture import NeededApproval as NeededApproval
from actionengine.pipeline.payload import Limits as Limits
from actionengine.pipeline.preview import Preview as Preview
from actionengine.pipeline.write_set import PreviewedEvent as PreviewedEvent
from actionengine.pipeline.write_set import Write as Write
from actionengine.storage.errors import SerializationFailure as SerializationFailure
from actionengine.storage.errors import StorageError as StorageError
from actionengine.storage.errors import StorageUnavailable as StorageUnavailable
from actionengine.storage.memory.storage import InMemoryStorage as InMemoryStorage
from actionengine.storage.outbox import DeadLetter as DeadLetter
from actionengine.storage.outbox import OutboxStatus as OutboxStatus
from actionengine.storage.port import Storage as Storage
from actionengine.storage.port import UnitOfWork as UnitOfWork
from actionengine.storage.postgres.storage import PostgresStorage as PostgresStorage  # extra: postgres
from actionengine.storage.records import AsyncRecords as AsyncRecords
from actionengine.storage.records import Records as Records
from actionengine.storage.rows import Record as Record
from actionengine.storage.sql.protection import protect_table as protect_table  # extra: sql
from actionengine.storage.sqlite.storage import SQLiteStorage as SQLiteStorage  # extra: sql

__version__: str
