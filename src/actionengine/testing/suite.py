"""The whole conformance suite: all its parts in one class."""

from __future__ import annotations

from actionengine.testing.action_log import ActionLogConformance
from actionengine.testing.approvals import ApprovalConformance
from actionengine.testing.budgets import BudgetConformance
from actionengine.testing.causes import CauseConformance
from actionengine.testing.dead_letters import DeadLetterConformance
from actionengine.testing.events import EventConformance
from actionengine.testing.idempotency import IdempotencyConformance
from actionengine.testing.log_search import LogSearchConformance
from actionengine.testing.outbox import OutboxConformance
from actionengine.testing.previews import PreviewConformance
from actionengine.testing.records import RecordsConformance
from actionengine.testing.roles import RolesConformance
from actionengine.testing.tables import TablesConformance
from actionengine.testing.tenants import TenantConformance
from actionengine.testing.transactions import TransactionConformance


class StorageConformance(
    RecordsConformance,
    TablesConformance,
    TransactionConformance,
    IdempotencyConformance,
    TenantConformance,
    ActionLogConformance,
    LogSearchConformance,
    CauseConformance,
    EventConformance,
    OutboxConformance,
    DeadLetterConformance,
    BudgetConformance,
    ApprovalConformance,
    PreviewConformance,
    RolesConformance,
):
    """All tests of a storage."""
