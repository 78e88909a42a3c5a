"""The public names of the conformance suite; `_lazy.attach` reads this table."""

from actionengine.testing.action_log import ActionLogConformance as ActionLogConformance  # extra: testing
from actionengine.testing.approvals import ApprovalConformance as ApprovalConformance  # extra: testing
from actionengine.testing.backend import AsyncBackend as AsyncBackend
from actionengine.testing.backend import Backend as Backend
from actionengine.testing.backend import SyncBackend as SyncBackend
from actionengine.testing.backend import run_in_mode as run_in_mode
from actionengine.testing.base import Conformance as Conformance  # extra: testing
from actionengine.testing.budgets import BudgetConformance as BudgetConformance
from actionengine.testing.causes import CauseConformance as CauseConformance  # extra: testing
from actionengine.testing.dead_letters import DeadLetterConformance as DeadLetterConformance  # extra: testing
from actionengine.testing.events import EventConformance as EventConformance  # extra: testing
from actionengine.testing.harness import Harness as Harness
from actionengine.testing.idempotency import IdempotencyConformance as IdempotencyConformance  # extra: testing
from actionengine.testing.log_search import LogSearchConformance as LogSearchConformance  # extra: testing
from actionengine.testing.outbox import OutboxConformance as OutboxConformance  # extra: testing
from actionengine.testing.previews import PreviewConformance as PreviewConformance  # extra: testing
from actionengine.testing.records import RecordsConformance as RecordsConformance  # extra: testing
from actionengine.testing.roles import RolesConformance as RolesConformance  # extra: testing
from actionengine.testing.suite import StorageConformance as StorageConformance  # extra: testing
from actionengine.testing.tables import TablesConformance as TablesConformance  # extra: testing
from actionengine.testing.tenants import TenantConformance as TenantConformance  # extra: testing
from actionengine.testing.transactions import TransactionConformance as TransactionConformance  # extra: testing

PARTS: tuple[str, ...]
