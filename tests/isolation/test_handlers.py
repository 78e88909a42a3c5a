"""SQL in a handler reaches only the rows of its own tenant if the database verifies the tenant."""

from __future__ import annotations

import pytest
from returns.result import Failure

from tests.isolation.attacks import (
    DEFINITIONS,
    FORGED_SIGNATURES,
    LEAKS,
    NAMING_READS,
    NAMING_WRITES,
    OPERATOR_CALLS,
    READ_ALL,
    READS,
    WRITES,
    Attack,
)
from tests.isolation.harness import Loot, Mode, SQLHarness

ATTACKS = [*READS, *LEAKS, *WRITES, *DEFINITIONS]


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """The mode of the handler."""
    mode: Mode = request.param
    return mode


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_sql_reaches_no_row_of_another_tenant(harness: SQLHarness, attack: Attack) -> None:
    # Each attack runs on both databases and in both modes.
    mode: Mode = "sync" if harness.is_signed else "async"

    with harness.untouched(harness.victim):
        # The handler fails, which undoes its writes to the attacker's own rows.
        loot = harness.attack(attack.script, mode=mode, ending="fail")

    assert harness.victim.marker not in loot
    assert "VICTIM" in "".join(attack.script) or harness.victim.id not in loot
    ended(attack, harness, loot)


def ended(attack: Attack, harness: SQLHarness, loot: Loot) -> None:
    """Check that the attack ended as it declares."""
    if any("built with libxml" in error for error in loot.errors):
        return
    if attack.ends == "refused":
        assert loot.errors != []
        assert all("syntax error" not in error for error in loot.errors)
    else:
        assert loot.errors == []
        assert (harness.attacker.marker in loot) is (attack.ends == "own")


@pytest.mark.parametrize("attack", WRITES, ids=[attack.name for attack in WRITES])
def test_what_sql_writes_and_commits_is_its_own_tenants(harness: SQLHarness, attack: Attack) -> None:
    attacker = harness.new_party("initech")

    with harness.untouched(harness.victim):
        harness.attack(attack.script, by=attacker)


@pytest.mark.parametrize("script", NAMING_READS.values(), ids=NAMING_READS)
def test_signed_contexts_keep_sql_from_reading_another_tenant(
    signed: SQLHarness, script: tuple[str, ...], mode: Mode
) -> None:
    with signed.untouched(signed.victim):
        loot = signed.attack(script, mode=mode)

    assert signed.victim.marker not in loot


@pytest.mark.parametrize("script", NAMING_READS.values(), ids=NAMING_READS)
def test_unsigned_contexts_let_sql_read_another_tenant(
    unsigned: SQLHarness, script: tuple[str, ...], mode: Mode
) -> None:
    loot = unsigned.attack(script, mode=mode)

    assert unsigned.victim.marker in loot


@pytest.mark.parametrize("script", NAMING_WRITES.values(), ids=NAMING_WRITES)
def test_signed_contexts_keep_sql_from_writing_another_tenant(
    signed: SQLHarness, script: tuple[str, ...], mode: Mode
) -> None:
    with signed.untouched(signed.victim):
        signed.attack(script, mode=mode)


@pytest.mark.parametrize("script", NAMING_WRITES.values(), ids=NAMING_WRITES)
def test_unsigned_contexts_let_sql_write_another_tenant(
    unsigned: SQLHarness, script: tuple[str, ...], mode: Mode
) -> None:
    victim = unsigned.new_party("umbrella")
    before = unsigned.rows_of(victim)

    unsigned.attack(script, victim=victim, mode=mode)

    assert unsigned.rows_of(victim) != before


@pytest.mark.parametrize("signature", FORGED_SIGNATURES.values(), ids=FORGED_SIGNATURES)
def test_a_signature_cannot_be_made_up(signed: SQLHarness, signature: str) -> None:
    be_victim = f"""
    SELECT set_config('app.signature', {signature}, true), set_config('app.tenant_id', 'VICTIM', true),
        set_config('app.action_id', 'x', true)
    """

    with signed.untouched(signed.victim):
        loot = signed.attack((be_victim, *READ_ALL, "DELETE FROM public.ae_documents"))

    assert loot.errors == []
    assert signed.victim.marker not in loot


def test_a_signature_is_for_one_action(signed: SQLHarness) -> None:
    loot = signed.attack(("SET LOCAL app.action_id = 'another'", "SELECT * FROM public.ae_documents"))

    assert loot.seen == []
    assert loot.errors == []


def test_a_signature_cannot_be_shifted_to_another_tenant(signed: SQLHarness) -> None:
    shifted = """
    SELECT set_config('app.action_id', right(whole, -37), true), set_config('app.tenant_id', left(whole, 37), true)
    FROM (SELECT 'ATTACKER|' || current_setting('app.action_id') AS whole)
    """

    loot = signed.attack((shifted, "SELECT * FROM public.ae_documents"))

    assert loot.seen[1:] == []


@pytest.mark.parametrize("call", OPERATOR_CALLS.values(), ids=OPERATOR_CALLS)
@pytest.mark.parametrize("signature", ["NULL", "''", "current_setting('app.signature')"])
def test_signed_contexts_refuse_a_handler_the_operators_calls(signed: SQLHarness, call: str, signature: str) -> None:
    tenants = signed.query("SELECT * FROM ae_tenants")

    loot = signed.attack((call.format(signature=signature),))

    assert loot.seen == []
    assert "its signature is missing or wrong" in loot.errors[0]
    assert signed.query("SELECT * FROM ae_tenants") == tenants


def test_where_contexts_are_not_signed_sql_can_list_the_tenants(unsigned: SQLHarness) -> None:
    loot = unsigned.attack((OPERATOR_CALLS["all tenants"].format(signature="NULL"),))

    assert unsigned.victim.tenant.slug in loot


def test_unsigned_contexts_let_sql_delete_a_tenant(unsigned: SQLHarness) -> None:
    slug = unsigned.new_party("umbrella").tenant.slug

    unsigned.attack((f"SELECT public.ae_delete_tenant('{slug}', NULL)",))

    assert isinstance(unsigned.resolve(slug, "sync"), Failure)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO ae_idempotency_keys VALUES ('VICTIM', '{action}', 'key', 'f')",
        "INSERT INTO ae_idempotency_keys VALUES ('VICTIM', '{action}', 'key', 'f') ON CONFLICT DO NOTHING",
        "UPDATE ae_idempotency_keys SET tenant_id = 'VICTIM', action = '{action}'",
        "UPDATE ae_idempotency_keys SET result = '' WHERE tenant_id = 'VICTIM' AND action = '{action}'",
        "INSERT INTO host_notes VALUES ('VICTIM', '{id}', '') ON CONFLICT DO NOTHING RETURNING 1",
        "EXPLAIN (ANALYZE, TIMING off, SUMMARY off, COSTS off, BUFFERS off)"
        " SELECT FROM ae_idempotency_keys WHERE tenant_id = 'VICTIM' AND action = '{action}'",
    ],
)
def test_present_and_absent_rows_are_answered_alike(harness: SQLHarness, statement: str) -> None:
    there = harness.attack((statement.format(action="test.work", id="first"),), ending="fail")
    not_there = harness.attack((statement.format(action="test.nope", id="nope"),), ending="fail")

    assert [error.replace("test.work", "test.nope") for error in there.errors] == not_there.errors
    assert [line.replace("test.work", "test.nope") for line in there.seen] == not_there.seen
