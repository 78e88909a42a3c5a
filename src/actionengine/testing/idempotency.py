"""Idempotency: a key takes effect once, whatever the number and order of its callers."""

from __future__ import annotations

from uuid import uuid4

import pytest
from returns.result import Failure

from actionengine.context import Actor, Tenant
from actionengine.errors import ErrorCode
from actionengine.pipeline.payload import Limits
from actionengine.storage.rows import CLAIMED, Claim, ClaimAnswer, Recording
from actionengine.testing.backend import Backend, run_in_mode
from actionengine.testing.base import Conformance, error_of, value_of
from actionengine.testing.rows import result
from actionengine.testing.sample import SampleHarness

OTHER_PRINT = "b" * 64
CLAIM = Claim("notes.put", "key", "a" * 64)
FIRST, SECOND = str(uuid4()), str(uuid4())
"""The ids of two approvals."""
LONG = 60.0
"""The limit in seconds of waits that another event ends: longer than the wait for that event."""


async def answer_to(backend: Backend, claim: Claim, tenant: Tenant | None = None) -> ClaimAnswer:
    """Return the current answer to a claim, and roll the claim back."""
    unit = backend.unit(tenant)
    try:
        return await unit.claim(claim, 0.0)
    finally:
        await unit.rollback()


async def use_key(backend: Backend, claim: Claim, value: bytes = b'{"id":1}', *, expired: bool = False) -> None:
    """Claim a key and commit a result for it."""
    async with backend.writing() as unit:
        assert await unit.claim(claim, 0.0) == CLAIMED
        await unit.record(Recording((), (), (result(claim, value, expired=expired),)))


async def await_approval(backend: Backend, claim: Claim, approval: str) -> None:
    """Claim a key and commit that it waits for an approval."""
    async with backend.writing() as unit:
        assert await unit.claim(claim, 0.0) == CLAIMED
        await unit.record(Recording((), (), (result(claim, None, approval_id=approval),)))


class IdempotencyConformance(Conformance):
    """Claims, and actions with keys."""

    @run_in_mode
    async def test_a_used_key_replays_its_result_byte_for_byte(self, backend: Backend) -> None:
        value = ' {"b": 1.0, "a": "grüße", "a": [1e2, null]}\n'.encode()

        await use_key(backend, CLAIM, value)

        assert await answer_to(backend, CLAIM) == ClaimAnswer("replay", value)
        assert await answer_to(backend, CLAIM) == ClaimAnswer("replay", value)

    @run_in_mode
    async def test_what_was_asked_is_replayed_with_the_result(self, backend: Backend) -> None:
        asked = b'{"for_actor": null, "asked": [["a.b", null, [], "\\u0000 \\ud800", "\\u00fc"]]}'
        async with backend.writing() as unit:
            await unit.claim(CLAIM, 0.0)
            await unit.record(Recording((), (), (result(CLAIM, asked=asked),)))

        assert await answer_to(backend, CLAIM) == ClaimAnswer("replay", b'{"id":1}', None, asked)

    @run_in_mode
    async def test_a_replay_asks_what_the_handler_asked(self, harness: SampleHarness) -> None:
        rights = ("notes.copy", "notes.edit")
        first = await harness.execute("notes.put_twice", {"id": "1"}, actor=Actor.human("ann", (), rights), key="key")
        value_of(first)

        for right in rights:
            eve = Actor.human("eve", permissions=[right])
            error_of(await harness.execute("notes.put_twice", {"id": "1"}, actor=eve, key="key"), ErrorCode.FORBIDDEN)
        bob = Actor.ai("bob", permissions=["notes.*"])

        assert value_of(await harness.execute("notes.put_twice", {"id": "1"}, actor=bob, key="key")) == value_of(first)
        assert await harness.outcomes("notes.put_twice") == ["succeeded", "denied", "denied", "replayed"]
        assert len(await harness.backend.ids("notes")) == 2

    @run_in_mode
    async def test_a_used_key_with_another_fingerprint_is_a_mismatch(self, backend: Backend) -> None:
        await use_key(backend, CLAIM)

        assert (await answer_to(backend, CLAIM._replace(fingerprint=OTHER_PRINT))).status == "mismatch"

    @run_in_mode
    async def test_a_held_key_is_in_progress_when_the_wait_is_over(self, backend: Backend) -> None:
        holder = backend.unit()
        assert await holder.claim(CLAIM, 0.0) == CLAIMED

        for wait in (0.0, 0.02):
            unit = backend.unit()
            assert await unit.claim(CLAIM, wait) == ClaimAnswer("in_progress")
            await unit.rollback()

        await holder.rollback()

    @run_in_mode
    async def test_a_rolled_back_claim_frees_the_key(self, backend: Backend) -> None:
        unit = backend.unit()
        await unit.claim(CLAIM, 0.0)
        await unit.record(Recording((), (), (result(CLAIM),)))
        await unit.rollback()

        assert await answer_to(backend, CLAIM) == CLAIMED

    @run_in_mode
    async def test_a_result_is_replayed_only_once_it_is_committed(self, backend: Backend) -> None:
        holder = backend.unit()
        assert await holder.claim(CLAIM, 0.0) == CLAIMED
        await holder.record(Recording((), (), (result(CLAIM),)))

        unit = backend.unit()
        assert await unit.claim(CLAIM, 0.02) == ClaimAnswer("in_progress")
        await unit.rollback()
        await holder.commit()

        assert (await answer_to(backend, CLAIM)).status == "replay"

    @run_in_mode
    async def test_one_unit_can_claim_several_keys(self, backend: Backend) -> None:
        other = CLAIM._replace(key="other")
        async with backend.writing() as unit:
            assert await unit.claim(CLAIM, 0.0) == CLAIMED
            assert await unit.claim(other, 0.0) == CLAIMED
            await unit.record(Recording((), (), (result(CLAIM, b"1"), result(other, b"2"))))

        assert await answer_to(backend, CLAIM) == ClaimAnswer("replay", b"1")
        assert await answer_to(backend, other) == ClaimAnswer("replay", b"2")

    @run_in_mode
    async def test_a_key_counts_for_one_tenant_and_one_action(self, backend: Backend) -> None:
        await use_key(backend, CLAIM)

        assert await answer_to(backend, CLAIM._replace(action="notes.pat")) == CLAIMED
        assert await answer_to(backend, CLAIM._replace(key="KEY")) == CLAIMED
        assert await answer_to(backend, CLAIM, backend.other_tenant) == CLAIMED
        assert (await answer_to(backend, CLAIM)).status == "replay"

    # Waiting

    @run_in_mode
    async def test_a_waiter_replays_what_the_first_one_committed(self, backend: Backend) -> None:
        claimed, answered = backend.event(), backend.event()

        async def first() -> ClaimAnswer:
            async with backend.writing() as unit:
                answer = await unit.claim(CLAIM, 0.0)
                claimed.set()
                await backend.sleep(0.03)
                await unit.record(Recording((), (), (result(CLAIM, b'"first"'),)))
            await answered.wait()
            return answer

        async def second() -> ClaimAnswer:
            await claimed.wait()
            async with backend.writing() as unit:
                answer = await unit.claim(CLAIM, LONG)
            answered.set()
            return answer

        assert await backend.gather(first(), second(), second()) == [
            CLAIMED,
            ClaimAnswer("replay", b'"first"'),
            ClaimAnswer("replay", b'"first"'),
        ]

    @run_in_mode
    async def test_a_waiter_claims_after_the_first_one_has_rolled_back(self, backend: Backend) -> None:
        claimed, answered = backend.event(), backend.event()

        async def first() -> ClaimAnswer:
            unit = backend.unit()
            answer = await unit.claim(CLAIM, 0.0)
            claimed.set()
            await backend.sleep(0.03)
            await unit.rollback()
            await answered.wait()
            return answer

        async def second() -> ClaimAnswer:
            await claimed.wait()
            async with backend.writing() as unit:
                answer = await unit.claim(CLAIM, LONG)
                if answer == CLAIMED:
                    await unit.record(Recording((), (), (result(CLAIM, b'"second"'),)))
            answered.set()
            return answer

        _, *seconds = await backend.gather(first(), second(), second())

        assert sorted(seconds, key=str) == sorted([CLAIMED, ClaimAnswer("replay", b'"second"')], key=str)

    # Expiry

    @run_in_mode
    async def test_an_expired_key_can_be_claimed_again(self, backend: Backend) -> None:
        await use_key(backend, CLAIM, b"1", expired=True)

        assert await answer_to(backend, CLAIM._replace(fingerprint=OTHER_PRINT)) == CLAIMED
        await use_key(backend, CLAIM._replace(fingerprint=OTHER_PRINT), b"2")

        assert await answer_to(backend, CLAIM._replace(fingerprint=OTHER_PRINT)) == ClaimAnswer("replay", b"2")

    @run_in_mode
    async def test_expired_keys_are_purged_in_batches_and_others_stay(self, backend: Backend) -> None:
        while await backend.purge_expired_keys():
            pass
        for number in range(3):
            await use_key(backend, CLAIM._replace(key=f"expired {number}"), expired=True)
        await use_key(backend, CLAIM._replace(key="fresh"))

        assert [await backend.purge_expired_keys(limit=2) for _ in range(3)] == [2, 1, 0]
        assert (await answer_to(backend, CLAIM._replace(key="fresh"))).status == "replay"
        assert await answer_to(backend, CLAIM._replace(key="expired 0")) == CLAIMED

    @run_in_mode
    async def test_a_purge_spares_a_key_that_is_claimed_again(self, backend: Backend) -> None:
        while await backend.purge_expired_keys():
            pass
        await use_key(backend, CLAIM, expired=True)
        await use_key(backend, CLAIM, b"2")

        assert await backend.purge_expired_keys() == 0
        assert await answer_to(backend, CLAIM) == ClaimAnswer("replay", b"2")

    # Approvals

    @run_in_mode
    async def test_a_key_that_waits_for_an_approval_says_so(self, backend: Backend) -> None:
        await await_approval(backend, CLAIM, FIRST)

        assert await answer_to(backend, CLAIM) == ClaimAnswer("replay", None, FIRST)
        assert (await answer_to(backend, CLAIM._replace(fingerprint=OTHER_PRINT))).status == "mismatch"

    @run_in_mode
    async def test_an_approval_takes_over_the_key_that_waits_for_it(self, backend: Backend) -> None:
        await await_approval(backend, CLAIM, FIRST)

        assert await answer_to(backend, CLAIM._replace(replaces=SECOND)) == ClaimAnswer("replay", None, FIRST)
        assert await answer_to(backend, CLAIM._replace(replaces=FIRST)) == CLAIMED
        assert await answer_to(backend, CLAIM) == ClaimAnswer("replay", None, FIRST)
        await use_key(backend, CLAIM._replace(replaces=FIRST), b'"done"')

        assert await answer_to(backend, CLAIM) == ClaimAnswer("replay", b'"done"')
        assert await answer_to(backend, CLAIM._replace(replaces=FIRST)) == ClaimAnswer("replay", b'"done"')

    @run_in_mode
    async def test_a_key_can_wait_for_a_further_approval(self, backend: Backend) -> None:
        await await_approval(backend, CLAIM, FIRST)

        await await_approval(backend, CLAIM._replace(replaces=FIRST), SECOND)

        assert await answer_to(backend, CLAIM._replace(replaces=FIRST)) == ClaimAnswer("replay", None, SECOND)

    # Actions

    @run_in_mode
    async def test_a_retry_replays_and_says_so_in_the_log(self, harness: SampleHarness) -> None:
        first = await harness.execute("notes.put", {"text": "grüße"}, key="key")
        second = await harness.execute("notes.put", {"text": "grüße"}, key="key")

        assert value_of(first) == value_of(second)
        assert len(harness.runs) == len(await harness.backend.ids("notes")) == 1
        assert await harness.outcomes("notes.put") == ["succeeded", "replayed"]
        assert await harness.event_types() == ["notes.put"]

    @run_in_mode
    async def test_a_key_with_another_payload_is_refused(self, harness: SampleHarness) -> None:
        value_of(await harness.execute("notes.put", {"text": "one"}, key="key"))

        error_of(await harness.execute("notes.put", {"text": "two"}, key="key"), ErrorCode.IDEMPOTENCY_MISMATCH)

        assert len(await harness.backend.ids("notes")) == 1

    @run_in_mode
    async def test_the_order_of_a_payloads_fields_does_not_matter(self, harness: SampleHarness) -> None:
        first = await harness.execute("notes.put", {"text": "one", "by": "me"}, key="key")

        assert await harness.execute("notes.put", {"by": "me", "text": "one"}, key="key") == first

    @pytest.mark.parametrize("action", ["fail", "crash"])
    @run_in_mode
    async def test_a_failure_leaves_the_key_free(self, harness: SampleHarness, action: str) -> None:
        for _ in range(2):
            assert isinstance(await harness.execute(f"notes.{action}", {}, key="key"), Failure)

        assert await harness.outcomes(f"notes.{action}") == ["failed", "failed"]
        assert await answer_to(harness.backend, Claim(f"notes.{action}", "key", "any")) == CLAIMED

    @run_in_mode
    async def test_an_action_that_requires_a_key_refuses_without(self, harness: SampleHarness) -> None:
        error_of(await harness.execute("notes.put_with_key", {}), ErrorCode.INVALID_INPUT)
        value_of(await harness.execute("notes.put_with_key", {}, key="key"))

        assert len(harness.runs) == 1

    @pytest.mark.parametrize("key", ["", "k" * 10_000])
    @run_in_mode
    async def test_a_key_of_impossible_length_is_refused(self, harness: SampleHarness, key: str) -> None:
        error_of(await harness.execute("notes.put", {}, key=key), ErrorCode.INVALID_INPUT)

        assert harness.runs == []
        assert await harness.outcomes("notes.put") == ["invalid"]

    @run_in_mode
    async def test_a_key_can_have_any_character_and_255_of_them(self, harness: SampleHarness) -> None:
        for key in ("a b", "'; --", "grüße", "😀" * 255, "中" * 255, "\\", "%"):
            first = value_of(await harness.execute("notes.put", {"text": key}, key=key))
            assert value_of(await harness.execute("notes.put", {"text": key}, key=key)) == first

        assert len(harness.runs) == 7

    @run_in_mode
    async def test_an_expired_key_runs_again(self, backend: Backend) -> None:
        harness = SampleHarness(backend, Limits(idempotency_ttl=0.0))

        first = value_of(await harness.execute("notes.put", {}, key="key"))

        assert value_of(await harness.execute("notes.put", {}, key="key")) != first
        assert len(await backend.ids("notes")) == 2

    @run_in_mode
    async def test_64_callers_with_one_key_are_one_execution(self, harness: SampleHarness) -> None:
        answers = await harness.backend.gather(
            *(harness.execute("notes.put", {"text": "once"}, key="key") for _ in range(64))
        )

        values = [value_of(answer) for answer in answers]
        assert values == [values[0]] * 64
        assert len(harness.runs) == 1
        assert await harness.backend.ids("notes") == [values[0]["id"]]
        assert await harness.event_types() == ["notes.put"]
        assert sorted(await harness.outcomes("notes.put")) == ["replayed"] * 63 + ["succeeded"]

    @run_in_mode
    async def test_64_callers_with_keys_of_their_own_are_64_executions(self, harness: SampleHarness) -> None:
        answers = await harness.backend.gather(
            *(harness.execute("notes.put", {"text": str(number)}, key=f"key {number}") for number in range(64))
        )

        assert [value_of(answer)["text"] for answer in answers] == [str(number) for number in range(64)]
        assert len(await harness.backend.ids("notes")) == 64

    @run_in_mode
    async def test_callers_with_one_key_and_two_payloads_are_one_execution(self, harness: SampleHarness) -> None:
        answers = await harness.backend.gather(
            *(harness.execute("notes.put", {"text": str(number % 2)}, key="key") for number in range(16))
        )

        (ran,) = harness.runs
        for number, answer in enumerate(answers):
            if str(number % 2) == ran["text"]:
                assert value_of(answer)["text"] == ran["text"]
            else:
                error_of(answer, ErrorCode.IDEMPOTENCY_MISMATCH)
        assert len(await harness.backend.ids("notes")) == 1

    @run_in_mode
    async def test_an_actions_key_counts_for_one_tenant_and_one_action(self, harness: SampleHarness) -> None:
        first = value_of(await harness.execute("notes.put", {}, key="key"))
        second = value_of(await harness.execute("notes.put_with_key", {}, key="key"))
        third = value_of(await harness.execute("notes.put", {}, key="key", tenant=harness.backend.other_tenant))

        assert len({first["id"], second["id"], third["id"]}) == 3
