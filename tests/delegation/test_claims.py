"""Actors of tokens: `sub`, and the nested `act` of RFC 8693, section 4.1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionengine import Actor, actor_from_claims
from actionengine.context import MAX_ACTOR_ID_LENGTH

CARLA = Actor.human("carla", ["dispatcher"])


def names(actor: Actor) -> list[str]:
    return [*map(str, actor.chain)]


def test_the_outermost_act_is_the_acting_party() -> None:
    """The example of section 4.1: the nested act is the earlier one of two parties."""
    claims = {
        "aud": "https://service26.example.com",
        "exp": 1443904100,
        "sub": "user@example.com",
        "act": {
            "sub": "https://service16.example.com",
            "act": {"sub": "https://service77.example.com"},
        },
    }

    assert names(actor_from_claims(claims)) == [
        "ai:https://service16.example.com",
        "ai:https://service77.example.com",
        "human:user@example.com",
    ]


def test_without_act_the_actor_is_the_subject() -> None:
    claims = {"sub": "carla", "roles": ["dispatcher"], "permissions": ["jobs.*"], "scope": "payments.refund"}

    assert actor_from_claims(claims) == Actor.human("carla", ["dispatcher"], ["jobs.*"])
    assert actor_from_claims({"sub": "crm", "client_id": "crm"}) == Actor.integration("crm")
    assert actor_from_claims({"sub": "carla", "client_id": "crm", "act": None}) == Actor.human("carla")


def test_rights_belong_to_the_party_that_has_the_claim() -> None:
    claims = {
        "sub": "carla",
        "roles": ["dispatcher"],
        "scope": "openid jobs.book",
        "act": {"sub": "bot", "roles": ["agent"], "permissions": ["jobs.*"]},
    }

    assert actor_from_claims(claims) == Actor.ai("bot", ["agent"], ["jobs.*"], on_behalf_of=CARLA)
    scoped = actor_from_claims(claims, scope="scope")
    assert scoped == Actor.ai("bot", ["agent"], ["jobs.*", "openid", "jobs.book"], on_behalf_of=CARLA)


def test_other_claims_and_functions_name_types_and_rights() -> None:
    claims = {
        "sub": "carla",
        "kind": "human",
        "realm_access": {"roles": ["dispatcher"]},
        "act": {"sub": "crm", "kind": "integration", "grants": ("jobs.book",)},
    }
    crm = Actor.integration("crm", permissions=["jobs.book"], on_behalf_of=CARLA)

    def roles(party: Mapping[str, Any]) -> list[str]:
        return party.get("realm_access", {}).get("roles", [])  # type: ignore[no-any-return]

    assert actor_from_claims(claims, actor_type="kind", roles=roles, permissions="grants") == crm
    by_function = actor_from_claims(
        claims,
        actor_type=lambda party: "integration" if party["sub"] == "crm" else None,
        roles=roles,
        permissions=lambda party: party.get("grants", ()),
    )
    assert by_function == crm


def nested(depth: int) -> dict[str, Any]:
    act: dict[str, Any] = {"sub": f"agent {depth}"}
    for number in reversed(range(1, depth)):
        act = {"sub": f"agent {number}", "act": act}
    return {"sub": "carla", "act": act}


def cyclic() -> dict[str, Any]:
    act: dict[str, Any] = {"sub": "bot"}
    act["act"] = act
    return {"sub": "carla", "act": act}


class Broken(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        raise RuntimeError

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({}, "sub of the token must be a text that is not empty, not a value of the type NoneType"),
        ({"sub": None}, "sub of the token"),
        ({"sub": ""}, "sub of the token must be a text that is not empty, not ''"),
        ({"sub": 17}, "not a value of the type int"),
        ({"sub": {"sub": "carla"}}, "not a value of the type dict"),
        ({"sub": "x" * 241}, "has 241 characters; an actor's id has at most 240"),
        ({"sub": "\ud800"}, "lone surrogate"),
        ({"act": {"sub": "bot"}}, "sub of the token"),
        ({"sub": "carla", "act": {}}, "sub of act must be"),
        ({"sub": "carla", "act": {"sub": "bot", "act": {"iss": "x"}}}, "sub of act.act must be"),
        ({"sub": "carla", "act": "bot"}, "act must be a mapping of claims, not 'bot'"),
        ({"sub": "carla", "act": [{"sub": "bot"}]}, "act must be a mapping of claims"),
        ({"sub": "carla", "act": {"sub": "bot", "act": 1}}, "act.act must be a mapping"),
        (nested(4), "act is nested 4 deep or deeper.*exchange the token"),
        (nested(5000), "act is nested"),
        (cyclic(), "act is nested"),
        ({"sub": "root", "actor_type": "system"}, "type of the token must be one of human, ai, integration, not 'sys"),
        ({"sub": "carla", "act": {"sub": "x", "actor_type": "workflow"}}, "type of act must be one of"),
        ({"sub": "carla", "actor_type": ["human"]}, "type of the token must be one of"),
        ({"sub": "carla", "roles": "admin"}, "roles of the token must be an array of texts, not 'admin'"),
        ({"sub": "carla", "roles": {"admin": True}}, "roles of the token must be an array"),
        ({"sub": "carla", "roles": 7}, "roles of the token must be an array"),
        ({"sub": "carla", "permissions": [None]}, "permissions of the token must be texts.*one of them is a value of"),
        ({"sub": "carla", "roles": ["a", "\ud800"]}, "roles of the token must be texts without NUL and lone"),
        ({"sub": "carla", "permissions": ["pay*"]}, r"pay\*"),
        ("sub=carla", "the claims of a token must be a mapping of claims, not 'sub=carla'"),
        (None, "must be a mapping"),
        (Broken(), "reading its claim act raised RuntimeError"),
    ],
)
def test_a_bad_token_says_which_claim_is_wrong(claims: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        actor_from_claims(claims)


def test_a_scope_has_to_be_a_text() -> None:
    with pytest.raises(ValueError, match="claim scp must be a text with scopes"):
        actor_from_claims({"sub": "carla", "scp": ["jobs.book"]}, scope="scp")


def test_three_parties_and_the_subject_fit() -> None:
    actor = actor_from_claims(nested(3))
    assert names(actor) == ["ai:agent 1", "ai:agent 2", "ai:agent 3", "human:carla"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["sub", "act", "roles"]), inner),
    max_leaves=12,
)


@given(claims=st.dictionaries(st.sampled_from(["sub", "act", "roles", "permissions", "actor_type"]), json_values))
def test_any_claims_name_an_actor_or_are_refused(claims: dict[str, Any]) -> None:
    try:
        actor = actor_from_claims(claims)
    except ValueError:
        return
    assert actor.principal.id == claims["sub"]
    assert len(actor.chain) <= 4
    assert all(each.type in ("human", "ai", "integration") for each in actor.chain)
    assert all(len(each.id) <= MAX_ACTOR_ID_LENGTH for each in actor.chain)
