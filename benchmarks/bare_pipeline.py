"""The bare pipeline (validate, authorize, handler, and the log row that each execution has) against Pydantic validation
and a direct call."""

from __future__ import annotations

from actionengine import RequestContext
from benchmarks.application import PAYLOAD, Refund, quote, start
from benchmarks.report import Row, at_most_more
from benchmarks.timing import Call, Contender, take_turns


def run(seconds: float) -> list[Row]:
    """A protected read-only action with a permission, without a key."""
    ours, peer = Contender("ours", _ours), Contender("peer", _peer)
    times = take_turns((ours, peer), seconds)
    return [
        Row(
            "bare_pipeline",
            "bare pipeline: validate, authorize, handler",
            "Pydantic validation and a direct call",
            times[ours.name],
            times[peer.name],
            at_most_more(5e-6),
        )
    ]


def _ours() -> Call:
    application = start()
    execute = application.engine.execute_action
    request = RequestContext(tenant=application.tenant, actor=application.actor)

    execute("payments", "quote", PAYLOAD, request).unwrap()
    return lambda: execute("payments", "quote", PAYLOAD, request)


def _peer() -> Call:
    return lambda: quote(Refund.model_validate(PAYLOAD))
