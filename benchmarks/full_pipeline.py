"""The full pipeline in memory against lato's bare dispatch of one command to one handler.

Ours validates the payload, authorizes through a role in storage, claims an idempotency key (a fresh one each time),
runs the handler, and commits its event, its result and its row of the action log. lato calls the handler.
"""

from __future__ import annotations

from itertools import count

import lato

from actionengine import RequestContext
from benchmarks.application import PAYLOAD, start
from benchmarks.report import Row, at_most_ratio
from benchmarks.timing import MAX_CALLS, Call, Contender, take_turns


class RefundCommand(lato.Command):
    job: str
    amount: float


def run(seconds: float) -> list[Row]:
    """Both with their requests prebuilt, then both with requests built per call."""
    ours, ours_built = Contender("ours", _ours), Contender("ours, built", _ours_built)
    peer, peer_built = Contender("peer", _peer), Contender("peer, built", _peer_built)
    times = take_turns((ours, peer, ours_built, peer_built), seconds)
    return [
        Row(
            "full_pipeline",
            "full pipeline: validate, authorize, claim, handler, event, log; requests prebuilt",
            "lato: bare dispatch of one command, prebuilt",
            times[ours.name],
            times[peer.name],
            at_most_ratio(0.6),
        ),
        Row(
            "full_pipeline_built",
            "full pipeline, request context built per call",
            "lato, command built per call",
            times[ours_built.name],
            times[peer_built.name],
        ),
    ]


def _ours() -> Call:
    application = start()
    execute, tenant, actor = application.engine.execute_action, application.tenant, application.actor
    # The slice, its warm-up and the first call of all.
    requests = [RequestContext(tenant, actor, idempotency_key=f"key-{number}") for number in range(2 * MAX_CALLS)]
    following = iter(requests).__next__

    execute("payments", "refund", PAYLOAD, following()).unwrap()
    return lambda: execute("payments", "refund", PAYLOAD, following())


def _ours_built() -> Call:
    application = start()
    execute, tenant, actor = application.engine.execute_action, application.tenant, application.actor
    keys = count()

    def call() -> object:
        request = RequestContext(tenant=tenant, actor=actor, idempotency_key=f"key-{next(keys)}")
        return execute("payments", "refund", {"job": "17", "amount": 50.0}, request)

    return call


def _peer() -> Call:
    execute = _lato().execute
    command = RefundCommand(job="17", amount=50.0)
    return lambda: execute(command)


def _peer_built() -> Call:
    execute = _lato().execute
    return lambda: execute(RefundCommand(job="17", amount=50.0))


def _lato() -> lato.Application:
    application = lato.Application("payments")

    @application.handler(RefundCommand)
    def refund(command: RefundCommand) -> dict[str, object]:
        return {"job": command.job, "amount": command.amount}

    return application
