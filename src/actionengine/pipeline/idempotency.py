"""Stage 6, claim: an idempotency key is used once. Each later request with the key gets the first answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from pydantic_core import to_json

from actionengine.authorization.questions import Questions
from actionengine.context import chain_key
from actionengine.errors import ActionError, ErrorCode, storable_text
from actionengine.hooks import PipelineResult
from actionengine.masking.masking import masked_json
from actionengine.pipeline.authorization import other_principal
from actionengine.pipeline.execution import Execution
from actionengine.pipeline.payload import Limits, check_claimable, fingerprint
from actionengine.pipeline.pending_approval import PendingApproval, error_for
from actionengine.pipeline.stored_form import NotStorable, store_plain, with_shown
from actionengine.pipeline.user_code import check_deadline
from actionengine.storage.port import UnitOfWork
from actionengine.storage.records import APPROVALS
from actionengine.storage.rows import Claim, ClaimAnswer, IdempotentResult

REQUESTS = "ae_requests"
"""The scope, in place of an action's name, of claims of requests without a key that wait for an approval."""


class Replayed(Exception):
    """Ends an execution whose key already has an answer."""

    def __init__(self, encoded: bytes, asked: bytes | None) -> None:
        super().__init__("replayed")
        self.encoded = encoded
        self.asked = asked


class Idempotency:
    """Claims keys, and stores their answers.

    `permission_to_approve` returns the permission that an approver of a pending approval needs today.
    """

    def __init__(self, limits: Limits, permission_to_approve: Callable[[PendingApproval], str]) -> None:
        self._limits = limits
        self._ttl = timedelta(seconds=limits.idempotency_ttl)
        self._permission_to_approve = permission_to_approve

    def is_wanted(self, execution: Execution) -> bool:
        """Return whether the execution claims a key. Raises `ActionError(invalid_input)` for a missing or bad key."""
        action, key = execution.plan.action, execution.request.idempotency_key
        if action.read_only or action.idempotency == "none":
            return False
        if key is None:
            if action.idempotency == "required":
                raise ActionError(
                    ErrorCode.INVALID_INPUT,
                    f"{execution.plan.name} needs an idempotency key: set RequestContext.idempotency_key",
                )
            return False
        if not isinstance(key, str) or not 0 < len(key) <= self._limits.key_length or storable_text(key) != key:
            raise ActionError(
                ErrorCode.INVALID_INPUT,
                f"an idempotency key is a text of 1 to {self._limits.key_length} characters in UTF-8",
            )
        return True

    async def claim(self, execution: Execution) -> None:
        """Run stage 6. Raises `ActionError` (`idempotency_mismatch` or `idempotency_in_progress`), or `Replayed` where
        the key has an answer."""
        execution.claim, answer = await self._take(execution, execution.claim or _claim_of(execution))
        if answer.status == "claimed":
            execution.asked = Questions(execution.request.actor)
            return
        check_deadline(execution)
        if answer.status == "replay":
            assert answer.result is not None
            raise Replayed(answer.result, answer.asked)
        key = execution.claim.key
        if answer.status == "mismatch":
            raise ActionError(
                ErrorCode.IDEMPOTENCY_MISMATCH,
                f"the idempotency key {key!r} was used for {execution.plan.name} with another payload: use a new "
                "key for a new request",
            )
        raise _in_progress(execution, execution.claim)

    async def claim_request(self, execution: Execution, request_key: str, replaces: str | None) -> Claim:
        """Claim a request that needs an approval, in the place of the decided approval `replaces`.

        Raises `ActionError`: `approval_required` where an approval of the same request is open, and
        `idempotency_in_progress` where another execution has been asking for it for too long.
        """
        claim, answer = await self._take(execution, Claim(REQUESTS, request_key, request_key, replaces))
        if answer.status != "claimed":
            check_deadline(execution)
            raise _in_progress(execution, claim)
        return claim

    async def claim_approved(self, execution: Execution, pending: PendingApproval) -> None:
        """Claim the key of an approved action. Raises `ActionError(conflict)` where the key has been used since."""
        if pending.idempotency_key is None:
            return
        execution.claim = Claim(execution.plan.name, pending.idempotency_key, pending.fingerprint, pending.id)
        answer = await execution.open().claim(execution.claim, self._limits.idempotency_wait)
        if answer.status != "claimed":
            raise ActionError(
                ErrorCode.CONFLICT,
                f"the idempotency key of the approval {pending.id} has been used since: request the action again",
            )

    async def store_result(self, execution: Execution, value: Any) -> Any:
        """Queue the answer of the claimed key, and return it: the caller and every retry get the same value.

        Raises `ActionError(internal)` for a result that a retry could not read back.
        """
        if execution.claim is None:
            return value
        now: datetime = await execution.open().now()
        plan, entry = execution.plan, execution.entry
        masked = entry.result_json or masked_json(execution.value)
        try:
            if entry.has_plain_value and value is execution.value and plan.results.is_plain:
                encoded = store_plain(masked)
            else:
                encoded, value = plan.results.store(value, masked, execution.has_own_value)
                execution.value = value.data if isinstance(value, PipelineResult) else value
        except NotStorable as error:
            raise ActionError(
                ErrorCode.INTERNAL,
                f"{plan.name} has an idempotency key, and a retry with it would not get the same result: "
                f"{error}. Return what comes back from its JSON as the type that the handler's annotation names, or "
                f"declare the action with idempotency='none'",
            ) from None
        encoded = with_shown(encoded, entry.input_to_keep, entry.output_to_keep)
        asked = execution.asked.encode(execution.secrets.are_in) if execution.asked is not None else None
        execution.results.append(IdempotentResult(execution.claim, encoded, None, now + self._ttl, asked))
        return value

    def store_approval(self, execution: Execution, claim: Claim, pending: PendingApproval) -> None:
        """Queue that a claimed key or request waits for an approval."""
        until = max(pending.created_at + self._ttl, pending.expires_at)
        execution.results.append(IdempotentResult(claim, None, pending.id, until))

    async def _take(self, execution: Execution, claim: Claim) -> tuple[Claim, ClaimAnswer]:
        """Claim, also in the place of an approval that came to nothing. Return the claim as it was made, and the
        answer. Raises `ActionError(approval_required)` where an approval is open."""
        unit_of_work = execution.open()
        while True:
            answer = await unit_of_work.claim(claim, execution.remaining(self._limits.idempotency_wait))
            if answer.status != "replay" or answer.approval_id is None:
                return claim, answer
            await self._check_decided(execution, unit_of_work, claim, answer.approval_id)
            claim = claim._replace(replaces=answer.approval_id)

    async def _check_decided(
        self, execution: Execution, unit_of_work: UnitOfWork, claim: Claim, approval_id: str
    ) -> None:
        record = await unit_of_work.records(APPROVALS).get(approval_id)
        if record is None:
            # Committed after this transaction began to read: the next attempt sees it.
            raise _in_progress(execution, claim)
        pending = PendingApproval.of(record)
        execution.entry.kept_input = to_json(pending.shown_input)
        if pending.is_open(await unit_of_work.now()) and not (claim.action == REQUESTS and pending.is_outdated):
            if not pending.may_be_met_by(execution.request.actor):
                raise other_principal(execution)
            permission = self._permission_to_approve(pending)
            raise error_for(pending.model_copy(update={"permission": permission}))


def _claim_of(execution: Execution) -> Claim:
    key, received = execution.request.idempotency_key, execution.received
    assert key is not None
    assert received is not None
    print_of_payload = fingerprint(
        received if received.is_plain else check_claimable(received, execution.plan.validator)
    )
    if execution.plan.before and execution.plan.action.resource is not None:
        # Only the hooks could tell the resource, and a replay does not run them: so only the first actor gets it.
        print_of_payload = f"{print_of_payload}:{chain_key(execution.request.actor)}"
    return Claim(execution.plan.name, key, print_of_payload)


def _in_progress(execution: Execution, claim: Claim) -> ActionError:
    same = "by the same actor" if claim.action == REQUESTS else f"with the idempotency key {claim.key!r}"
    return ActionError(
        ErrorCode.IDEMPOTENCY_IN_PROGRESS,
        f"the first execution of {execution.plan.name} {same} is still running: retry later",
    )
