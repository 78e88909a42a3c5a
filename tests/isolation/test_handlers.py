"""What SQL in a handler can reach: its own tenant's rows, in a database that verifies who the tenant is."""

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
from tests.isolation.worlds import Backend, Loot, Mode

ATTACKS = [*READS, *LEAKS, *WRITES, *DEFINITIONS]


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Whether the handler is a `def` or an `async def`."""
    mode: Mode = request.param
    return mode


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_sql_reaches_no_row_of_another_tenant(backend: Backend, attack: Attack) -> None:
    # Two worlds of databases, and two of handlers: each attack is tried in each of them.
    mode: Mode = "sync" if backend.is_signed else "async"

    with backend.untouched(backend.victim):
        # A failing handler: what is tried on the attacker's own rows is undone.
        loot = backend.attack(attack.script, mode=mode, ending="fail")

    assert backend.victim.marker not in loot
    assert "VICTIM" in "".join(attack.script) or backend.victim.id not in loot
    ended(attack, backend, loot)


def ended(attack: Attack, backend: Backend, loot: Loot) -> None:
    """The attack was carried out in the way that it says."""
    if any("built with libxml" in error for error in loot.errors):
        return
    if attack.ends == "refused":
        assert loot.errors != []
        assert all("syntax error" not in error for error in loot.errors)
    else:
        assert loot.errors == []
        assert (backend.attacker.marker in loot) is (attack.ends == "own")


@pytest.mark.parametrize("attack", WRITES, ids=[attack.name for attack in WRITES])
def test_what_sql_writes_and_commits_is_its_own_tenants(backend: Backend, attack: Attack) -> None:
    attacker = backend.new_party("initech")

    with backend.untouched(backend.victim):
        backend.attack(attack.script, by=attacker)


@pytest.mark.parametrize("script", NAMING_READS.values(), ids=NAMING_READS)
def test_where_contexts_are_signed_sql_cannot_read_as_another_tenant(
    signed_backend: Backend, script: tuple[str, ...], mode: Mode
) -> None:
    with signed_backend.untouched(signed_backend.victim):
        loot = signed_backend.attack(script, mode=mode)

    assert signed_backend.victim.marker not in loot


@pytest.mark.parametrize("script", NAMING_READS.values(), ids=NAMING_READS)
def test_where_contexts_are_not_signed_sql_can_read_as_another_tenant_by_naming_it(
    unsigned_backend: Backend, script: tuple[str, ...], mode: Mode
) -> None:
    loot = unsigned_backend.attack(script, mode=mode)

    assert unsigned_backend.victim.marker in loot


@pytest.mark.parametrize("script", NAMING_WRITES.values(), ids=NAMING_WRITES)
def test_where_contexts_are_signed_sql_cannot_write_as_another_tenant(
    signed_backend: Backend, script: tuple[str, ...], mode: Mode
) -> None:
    with signed_backend.untouched(signed_backend.victim):
        signed_backend.attack(script, mode=mode)


@pytest.mark.parametrize("script", NAMING_WRITES.values(), ids=NAMING_WRITES)
def test_where_contexts_are_not_signed_sql_can_write_as_another_tenant_by_naming_it(
    unsigned_backend: Backend, script: tuple[str, ...], mode: Mode
) -> None:
    victim = unsigned_backend.new_party("umbrella")
    before = unsigned_backend.rows_of(victim)

    unsigned_backend.attack(script, victim=victim, mode=mode)

    assert unsigned_backend.rows_of(victim) != before


@pytest.mark.parametrize("signature", FORGED_SIGNATURES.values(), ids=FORGED_SIGNATURES)
def test_a_signature_cannot_be_made_up(signed_backend: Backend, signature: str) -> None:
    be_victim = f"""
    SELECT set_config('app.signature', {signature}, true), set_config('app.tenant_id', 'VICTIM', true),
        set_config('app.action_id', 'x', true)
    """

    with signed_backend.untouched(signed_backend.victim):
        loot = signed_backend.attack((be_victim, *READ_ALL, "DELETE FROM public.ae_documents"))

    assert loot.errors == []
    assert signed_backend.victim.marker not in loot


def test_a_signature_is_for_one_action(signed_backend: Backend) -> None:
    loot = signed_backend.attack(("SET LOCAL app.action_id = 'another'", "SELECT * FROM public.ae_documents"))

    assert loot.seen == []
    assert loot.errors == []


def test_a_signature_does_not_become_another_tenants_by_moving_the_border_of_its_parts(signed_backend: Backend) -> None:
    shifted = """
    SELECT set_config('app.action_id', right(whole, -37), true), set_config('app.tenant_id', left(whole, 37), true)
    FROM (SELECT 'ATTACKER|' || current_setting('app.action_id') AS whole)
    """

    loot = signed_backend.attack((shifted, "SELECT * FROM public.ae_documents"))

    assert loot.seen[1:] == []


@pytest.mark.parametrize("call", OPERATOR_CALLS.values(), ids=OPERATOR_CALLS)
@pytest.mark.parametrize("signature", ["NULL", "''", "current_setting('app.signature')"])
def test_where_contexts_are_signed_an_operators_call_is_no_handlers(
    signed_backend: Backend, call: str, signature: str
) -> None:
    tenants = signed_backend.query("SELECT * FROM ae_tenants")

    loot = signed_backend.attack((call.format(signature=signature),))

    assert loot.seen == []
    assert "its signature is missing or wrong" in loot.errors[0]
    assert signed_backend.query("SELECT * FROM ae_tenants") == tenants


def test_where_contexts_are_not_signed_sql_can_list_the_tenants(unsigned_backend: Backend) -> None:
    loot = unsigned_backend.attack((OPERATOR_CALLS["all tenants"].format(signature="NULL"),))

    assert unsigned_backend.victim.tenant.slug in loot


def test_where_contexts_are_not_signed_sql_can_delete_a_tenant(unsigned_backend: Backend) -> None:
    slug = unsigned_backend.new_party("umbrella").tenant.slug

    unsigned_backend.attack((f"SELECT public.ae_delete_tenant('{slug}', NULL)",))

    assert isinstance(unsigned_backend.resolve(slug, "sync"), Failure)


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
def test_what_a_tenant_has_and_what_it_has_not_are_answered_alike(backend: Backend, statement: str) -> None:
    there = backend.attack((statement.format(action="test.work", id="first"),), ending="fail")
    not_there = backend.attack((statement.format(action="test.nope", id="nope"),), ending="fail")

    assert [error.replace("test.work", "test.nope") for error in there.errors] == not_there.errors
    assert [line.replace("test.work", "test.nope") for line in there.seen] == not_there.seen
