"""`actor_from_claims`: the actor of a token, and the chain of those for whom it acts (RFC 8693, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, cast

from actionengine.context import MAX_ACTOR_ID_LENGTH, MAX_CHAIN_LENGTH, Actor, ActorType
from actionengine.errors import storable_text
from actionengine.text.names import shortened

Claims = Mapping[str, Any]

NamesOf = str | Callable[[Claims], Iterable[str]]
"""The name of a claim with an array of names, or a function from claims to such names."""

TypeOf = str | Callable[[Claims], "ActorType | None"]
"""The name of a claim with the type of the actor, or a function from claims to the type; None for the default."""

TYPES: tuple[ActorType, ...] = ("human", "ai", "integration")
"""The types that a token may give to an actor: the host's own code makes the others."""


def actor_from_claims(
    claims: Claims,
    *,
    actor_type: TypeOf = "actor_type",
    roles: NamesOf = "roles",
    permissions: NamesOf = "permissions",
    scope: str | None = None,
) -> Actor:
    """Return the actor of a verified token.

    This function verifies nothing: check the signature, the issuer, the audience and the expiry of the token first.

    `sub` is the principal, for whom the token was issued. `act.sub` is the party that presents it, and each `act`
    inside of that one an earlier party in between. So `{"sub": "carla", "act": {"sub": "bot", "act": {"sub": "lead"}}}`
    is `ai:bot` on behalf of `ai:lead` on behalf of `human:carla`. Without `act`, the actor is `sub` itself.

    Args:
        claims: the claims of the token, as JSON values.
        actor_type: the claim with the type of an actor (`human`, `ai` or `integration`), in the token and in each
            `act`, or a function of these claims. Without it, a party of an `act` is an `ai`; `sub` is an `integration`
            if it equals `client_id`, as in a token without a person (RFC 9068, section 2.2), and else a `human`. So a
            token of an agent's own needs the claim.
        roles: the claim with an array of roles, or a function. Those of the token belong to `sub`, those in an `act`
            to that party.
        permissions: the claim with an array of permissions, or a function, in the same way.
        scope: the claim with the scopes of the token, separated by spaces, such as `"scope"`. They become permissions
            of the actor that presents the token. By default, scopes give no right.

    Raises:
        ValueError: for claims without `sub`, or that name no actors: not texts, empty, too long, a chain of more than 4
            actors, a type that a token cannot give.
    """
    parties = _parties(claims)
    actor: Actor | None = None
    for depth in reversed(range(len(parties))):
        where, party = parties[depth]
        is_subject = where == "the token"
        granted = _names(party, permissions, f"permissions of {where}")
        if depth == 0 and scope is not None:
            granted += _scopes(claims, scope)
        actor = Actor(
            _type(party, actor_type, where, "human" if is_subject else "ai"),
            _subject(party, where),
            _names(party, roles, f"roles of {where}"),
            granted,
            on_behalf_of=actor,
        )
    assert actor is not None
    return actor


def _parties(claims: Any) -> list[tuple[str, Claims]]:
    """Return the parties of a token and the place of each: the acting one first, `sub` of the token last."""
    _check_mapping(claims, "the claims of a token")
    found: list[tuple[str, Claims]] = []
    where, party = "act", _get(claims, "act")
    while party is not None:
        _check_mapping(party, where)
        found.append((where, party))
        if len(found) == MAX_CHAIN_LENGTH:
            _refuse(
                f"act is nested {MAX_CHAIN_LENGTH} deep or deeper; with sub, at most {MAX_CHAIN_LENGTH} actors may act "
                "for each other: exchange the token with fewer parties in between"
            )
        where, party = f"{where}.act", _get(party, "act")
    return [*found, ("the token", claims)]


def _subject(party: Claims, where: str) -> str:
    subject = _get(party, "sub")
    if not isinstance(subject, str) or not subject:
        _refuse(f"sub of {where} must be a text that is not empty, not {_shown(subject)}")
    if len(subject) > MAX_ACTOR_ID_LENGTH:
        _refuse(f"sub of {where} has {len(subject)} characters; an actor's id has at most {MAX_ACTOR_ID_LENGTH}")
    return subject


def _type(party: Claims, type_of: TypeOf, where: str, default: ActorType) -> ActorType:
    given = type_of(party) if callable(type_of) else _get(party, type_of)
    if given is None:
        is_client = default == "human" and _get(party, "client_id") == _get(party, "sub")
        return "integration" if is_client else default
    if given not in TYPES:
        _refuse(f"the actor type of {where} must be one of {', '.join(TYPES)}, not {_shown(given)}")
    return cast("ActorType", given)


def _names(party: Claims, names_of: NamesOf, what: str) -> tuple[str, ...]:
    given = names_of(party) if callable(names_of) else _get(party, names_of)
    if given is None:
        return ()
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        _refuse(f"the {what} must be an array of texts, not {_shown(given)}")
    names = tuple(given)
    for name in names:
        if not isinstance(name, str) or storable_text(name) != name:
            _refuse(f"the {what} must be texts without NUL and lone surrogates, and one of them is {_shown(name)}")
    return names


def _scopes(claims: Claims, name: str) -> tuple[str, ...]:
    given = _get(claims, name)
    if given is not None and not isinstance(given, str):
        _refuse(f"the claim {name} must be a text with scopes, separated by spaces, not {_shown(given)}")
    return tuple(given.split()) if given is not None else ()


def _get(claims: Claims, name: str) -> Any:
    try:
        return claims.get(name)
    except Exception as error:
        raise ValueError(f"the token names no actor: reading its claim {name} raised {type(error).__name__}") from error


def _check_mapping(value: Any, what: str) -> None:
    if not isinstance(value, Mapping):
        _refuse(f"{what} must be a mapping of claims, not {_shown(value)}")


def _shown(value: Any) -> str:
    return repr(shortened(value)) if isinstance(value, str) else f"a value of the type {type(value).__name__}"


def _refuse(reason: str) -> NoReturn:
    raise ValueError(f"the token names no actor: {reason}")
