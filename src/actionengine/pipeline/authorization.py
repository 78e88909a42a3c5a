"""Stage 3, authorize: the actor's type, roles and permissions. Also the questions of handlers and of replays."""

from __future__ import annotations

from collections.abc import Awaitable

from actionengine.authorization.port import AccessRequest, Authorizer, Decision
from actionengine.authorization.questions import Question, decode_questions
from actionengine.concurrency.run_sync import run_sync
from actionengine.context import MAX_ACTOR_ID_LENGTH, Actor, chain_key
from actionengine.errors import ActionError, ErrorCode, check_length
from actionengine.pipeline.execution import Execution
from actionengine.pipeline.user_code import log_crash
from actionengine.storage.errors import StorageError


class Authorization:
    """Asks the authorizer, and logs its decisions."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def authorize(self, execution: Execution) -> None:
        """Run stage 3. Raises `ActionError`: `unauthenticated` without an actor, `forbidden` for an actor without the
        right."""
        action, actor = execution.plan.action, execution.request.actor
        allowed = action.allowed_actors
        if actor is None:
            if action.is_protected or allowed is not None:
                execution.entry.record_decision("no actor")
                raise ActionError(
                    ErrorCode.UNAUTHENTICATED, f"{execution.plan.name} needs an actor: the request has none"
                )
            return
        check_length("the id of the actor", actor.id, MAX_ACTOR_ID_LENGTH)
        if actor.on_behalf_of is not None:
            for principal in actor.on_behalf_of.chain:
                check_length("the id of a principal of the actor", principal.id, MAX_ACTOR_ID_LENGTH)
        if allowed is not None and actor.type not in allowed:
            execution.entry.record_decision(f"{actor.type} actors are not allowed")
            raise ActionError(
                ErrorCode.FORBIDDEN,
                f"{execution.plan.name} is not for {actor.type} actors, only for {', '.join(sorted(allowed))}",
            )
        if allowed is not None and execution.asked is not None:
            execution.asked.add(Question(execution.plan.name, tuple(sorted(allowed)), (), None, None), actor)
        if action.is_protected:
            is_pending = action.resource is not None
            enforce(execution, await self._ask(execution, action.access_control, action.permission, None, is_pending))

    async def authorize_resource(self, execution: Execution, resource: str) -> None:
        """Ask again, about the resource that the input names. Raises `ActionError(forbidden)`."""
        action = execution.plan.action
        if action.is_protected and execution.request.actor is not None:
            enforce(execution, await self._ask(execution, action.access_control, action.permission, resource))

    async def decide(self, execution: Execution, permission: str | None, resource: str | None) -> Decision:
        """Return the authorizer's decision on a question of the handler."""
        return await self._ask(execution, (), permission, resource)

    async def may_approve(
        self, execution: Execution, approver: Actor, permission: str | None, resource: str | None
    ) -> Decision:
        """Return the authorizer's decision on an approver."""
        return await self._put(execution, Question(execution.plan.name, None, (), permission, resource), approver)

    async def ask_again(self, execution: Execution, encoded: bytes) -> None:
        """Repeat the questions of the first execution for the actor of a replay. Raises `ActionError(forbidden)`."""
        questions, actor, name = decode_questions(encoded), execution.request.actor, execution.plan.name
        execution.secrets.learn(questions.secret)
        if questions.for_actor is not None and questions.for_actor != chain_key(actor):
            execution.entry.record_decision("the result is for the actor that got it first")
            raise ActionError(
                ErrorCode.FORBIDDEN, f"{name}: the idempotency key is another actor's, and so is its result"
            )
        if questions.for_actor is None and questions.for_principal not in (None, principal_of(actor)):
            raise other_principal(execution)
        for question in questions.asked:
            if actor is None:
                decision = Decision(False, "no actor")
            elif question.allowed_actors is None:
                decision = await self._put(execution, question, actor)
            elif actor.type in question.allowed_actors:
                continue
            else:
                decision = Decision(False, f"{question.action} is not for {actor.type} actors")
                execution.entry.record_decision(decision.reason)
            enforce(execution, decision)

    async def _ask(
        self,
        execution: Execution,
        roles: tuple[str, ...],
        permission: str | None,
        resource: str | None,
        is_pending: bool = False,
    ) -> Decision:
        actor = execution.request.actor
        if actor is None:
            return Decision(False, "no actor")
        question = Question(execution.plan.name, None, roles, permission, resource)
        decision = await self._put(execution, question, actor, is_pending)
        if decision.allowed and execution.asked is not None and not is_pending:
            execution.asked.add(question, actor)
        return decision

    def _put(
        self, execution: Execution, question: Question, actor: Actor, is_pending: bool = False
    ) -> Awaitable[Decision]:
        """Return the decision on an actor. One that acts for others may do what each actor in its chain may do."""
        if actor.on_behalf_of is None:
            return self._put_once(execution, question, actor, is_pending)
        return self._put_for_each(execution, question, actor, is_pending)

    async def _put_for_each(self, execution: Execution, question: Question, actor: Actor, is_pending: bool) -> Decision:
        decision = Decision(False, "no actor")
        for each in actor.chain:
            decision = await self._put_once(execution, question, each, is_pending, f" (for {each})")
            if not decision.allowed:
                break
        return decision

    async def _put_once(
        self, execution: Execution, question: Question, actor: Actor, is_pending: bool, for_whom: str = ""
    ) -> Decision:
        tenant, mode = execution.request.tenant, execution.root.mode
        assert tenant is not None
        action, _, roles, permission, resource = question
        request = AccessRequest(tenant, actor, action, roles, permission, resource, is_pending, mode)
        try:
            decision = self._authorizer.authorize(request)
            if not isinstance(decision, Decision):
                # In sync mode, an authorizer that waits for an event loop refuses the request.
                decision = run_sync(_awaited(decision)) if mode == "sync" else await decision
        except (ActionError, StorageError):
            raise
        except Exception as error:
            log_crash(execution, "the authorizer", error)
            raise ActionError(ErrorCode.INTERNAL, f"the authorizer raised {type(error).__name__}") from None
        if for_whom:
            decision = Decision(decision.allowed, decision.reason + for_whom)
        execution.entry.record_decision(decision.reason)
        return decision


def principal_of(actor: Actor | None) -> str | None:
    """Return the principal of an actor as `type:id`."""
    return str(actor.principal) if actor is not None else None


def other_principal(execution: Execution) -> ActionError:
    """Return the error for an idempotency key of an actor that acted for another principal."""
    return ActionError(
        ErrorCode.IDEMPOTENCY_MISMATCH,
        f"the idempotency key {execution.request.idempotency_key!r} was used for {execution.plan.name} on behalf of "
        "another principal: use a new key for a new request",
    )


def enforce(execution: Execution, decision: Decision) -> None:
    """Raise `ActionError(forbidden)` for a decision that refuses."""
    if not decision.allowed:
        raise ActionError(ErrorCode.FORBIDDEN, f"{execution.plan.name}: {decision.reason}")


async def _awaited(decision: Awaitable[Decision]) -> Decision:
    return await decision
