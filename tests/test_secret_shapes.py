"""Secrets in every shape: none is in a row, an event, an approval, a hook log or an error, whatever its source."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_origin

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel, Secret, SecretBytes, SecretStr
from pydantic.dataclasses import dataclass as pydantic_dataclass
from returns.result import Failure, Result, Success
from typing_extensions import TypeAliasType, TypedDict

from actionengine import (
    ActionContext,
    ActionError,
    ActionHooks,
    ActionResultConfig,
    Actor,
    ApprovalPolicy,
    ErrorCode,
    HookDefinition,
    InMemoryStorage,
    RequestContext,
    Role,
    Rule,
    Sensitive,
    StaticAuthorizer,
    Tenant,
    create_event_type,
)
from actionengine.masking.masking import scrub_text
from actionengine.masking.secret_types import MASK
from tests.conftest import EngineOf, Execute, log_of, make_action

MARKER = "4111-marker-1111"
T = TypeVar("T")

Pin = TypeAliasType("Pin", Annotated[str, Sensitive()])


class Password(RootModel[SecretStr]):
    pass


class Passwords(RootModel[list[Password]]):
    pass


class Login(BaseModel):
    password: Password


class Token(BaseModel):
    value: SecretStr


class Marked(BaseModel):
    value: Annotated[str, Sensitive()]


class Card(BaseModel):
    cvv: Annotated[int, Sensitive()]


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=lambda name: f"x-{name}", populate_by_name=True)
    api_key: Annotated[str, Sensitive()]


class Renamed(BaseModel):
    key: Annotated[str, Sensitive()] = Field(
        validation_alias=AliasChoices("key", AliasPath("deep", "given")), serialization_alias="apiKey"
    )


class Box(BaseModel, Generic[T]):
    content: T


@dataclasses.dataclass
class Pair:
    token: Annotated[str, Sensitive()]
    name: str = "n"


@dataclasses.dataclass
class Aliased:
    token: Annotated[str, Sensitive(), Field(serialization_alias="theToken")]


@pydantic_dataclass
class Checked:
    token: Annotated[str, Sensitive()]


class Typed(TypedDict):
    token: Annotated[str, Sensitive()]


class Key(NamedTuple):
    name: str
    secret: SecretStr


class Holder(BaseModel):
    anything: Any


VALIDATIONS: dict[str, tuple[Any, Any]] = {
    "a root model": (Password, MARKER),
    "a root model of root models": (Passwords, [MARKER]),
    "a field of a root model": (Login, {"password": MARKER}),
    "a dictionary of secrets": (dict[str, SecretStr], {"a": MARKER}),
    "a list of secrets": (list[Annotated[str, Sensitive()]], [MARKER]),
    "a union": (SecretStr | int, MARKER),
    "an alias of a type": (Pin, MARKER),
    "a field of an alias of a type": (Box[Pin], {"content": MARKER}),
    "a generic model": (Box[SecretStr], {"content": MARKER}),
    "a generic secret": (Box[Secret[str]], {"content": MARKER}),
    "bytes": (Box[SecretBytes], {"content": MARKER}),
    "an alias generator": (Camel, {"x-api_key": MARKER}),
    "an alias further in": (Renamed, {"deep": {"given": MARKER}}),
    "an optional secret": (Box[SecretStr | None], {"content": MARKER}),
    "a tuple": (Box[tuple[str, SecretStr]], {"content": ["a", MARKER]}),
    "a mapping under a name": (Box[Mapping[str, SecretStr]], {"content": {"a": MARKER}}),
    "a dataclass": (Pair, {"token": MARKER}),
    "a list of dataclasses": (list[Pair], [{"token": MARKER}]),
}

VALUES: dict[str, Callable[[], Any]] = {
    "a secret": lambda: SecretStr(MARKER),
    "a model": lambda: Token(value=SecretStr(MARKER)),
    "a marked model": lambda: Marked(value=MARKER),
    "a root model": lambda: Password(SecretStr(MARKER)),
    "a dataclass": lambda: Pair(MARKER),
    "a dataclass with an alias": lambda: Aliased(MARKER),
    "a dataclass in a list": lambda: [Pair(MARKER)],
    "a dataclass in a model": lambda: Holder(anything={"p": Pair(MARKER)}),
    "a model in a dictionary": lambda: {"a": [Marked(value=MARKER)]},
    "a dataclass of pydantic": lambda: (Checked(MARKER),),
    "a named tuple": lambda: Key("n", SecretStr(MARKER)),
    "a secret as a key": lambda: {SecretStr(MARKER): 1},
    "a serialization alias": lambda: Renamed.model_validate({"key": MARKER}),
    "a generic model": lambda: Box[SecretStr](content=SecretStr(MARKER)),
}


def written(storage: InMemoryStorage) -> Iterator[str]:
    (tenant,) = storage.list_tenants()
    data = storage._tenant_data(tenant.id)
    for row in data.log:
        yield repr(row)
    for event in data.events:
        yield repr(event)


def assert_masked(storage: InMemoryStorage, marker: str = MARKER) -> None:
    rows = list(written(storage))
    assert rows
    for row in rows:
        assert marker not in row


def told(answer: Result[Any, Any]) -> str:
    if isinstance(answer, Success):
        return ""
    error = answer.failure()
    return json.dumps(error.to_dict()) + str(error) + repr(error)


@pytest.mark.parametrize("what", VALIDATIONS)
def test_a_secret_of_the_payload_is_masked(
    what: str, engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    validation, payload = VALIDATIONS[what]
    engine = engine_of(
        make_action("ok", lambda d: Success(None), validation=validation),
        make_action("echo", lambda d: Success(d), validation=validation),
        make_action("fail", lambda d: Failure(f"<{payload}>"), validation=validation),
        make_action(
            "needs",
            lambda d: Success(None),
            validation=validation,
            approval=ApprovalPolicy(when=lambda data, ctx: True, permission="p.approve"),
        ),
    )
    for action in ("ok", "echo", "fail", "needs"):
        assert MARKER not in told(execute(engine, f"work.{action}", payload))
    execute(engine, "work.ok", {"wrong": payload, "content": payload})
    boss = Actor.human("boss", permissions=["p.approve"])
    assert MARKER not in str(execute(engine, "approvals.list", {}, boss).unwrap())
    assert_masked(storage)


@pytest.mark.parametrize("what", VALUES)
def test_a_secret_that_a_handler_makes_is_masked_everywhere(
    what: str, engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    make = VALUES[what]
    moved = create_event_type(type="moved", payload=Any)

    def emit(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.emit("made", make())
        ctx.emit(moved, {"inside": [make()]}, subject=f"thing/{MARKER}")
        return Success(f"made {MARKER}")

    def fail(data: Any) -> Result[Any, Any]:
        return Failure(ActionError(ErrorCode.CONFLICT, f"no {MARKER}", {"one": make(), "two": [make()], MARKER: 1}))

    def nested(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        value = make()
        ctx.execute("work", "note", value if isinstance(value, BaseModel) else Holder(anything=value))
        return Success(ctx.execute("work", "give", {}).unwrap())

    hooks = ActionHooks(
        before=(HookDefinition("work", "supply"),),
        after=(HookDefinition("work", "note"), HookDefinition("work", "broken", is_critical=False)),
    )
    engine = engine_of(
        make_action("emit", emit),
        make_action("fail", fail),
        make_action("give", lambda d: Success(make())),
        make_action("supply", lambda d: Success(make())),
        make_action("note", lambda d: Success({"noted": 1})),
        make_action("broken", lambda d: Failure(f"saw {d} {MARKER}")),
        make_action("nested", nested),
        make_action("hooked", lambda d: Success(make()), hooks=hooks, result=ActionResultConfig(pipeline=True)),
    )
    with caplog.at_level(logging.DEBUG):
        for action in ("emit", "fail", "give", "nested", "hooked"):
            answer = execute(engine, f"work.{action}", {})
            assert MARKER not in told(answer)
            if action == "hooked":
                assert MARKER not in repr(answer.unwrap().pipeline)
    assert [row.outcome for row in log_of(engine) if row.parent_id is None] == [
        "succeeded",
        "failed",
        *["succeeded"] * 3,
    ]
    assert_masked(storage)
    assert all(MARKER not in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("result", [Typed, Pair, Marked, dict[str, SecretStr], SecretStr])
def test_an_approved_result_is_masked_on_both_rows(
    result: Any, engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    made = {
        Typed: {"token": MARKER},
        Pair: Pair(MARKER),
        Marked: Marked(value=MARKER),
        SecretStr: SecretStr(MARKER),
    }.get(result, {"a": SecretStr(MARKER)})

    def give(data: Any) -> Any:
        return Success(made)

    give.__annotations__["return"] = Result[result, ActionError]
    policy = ApprovalPolicy(when=lambda data, ctx: True, permission="p.approve")
    engine = engine_of(make_action("give", give, approval=policy))
    asked = execute(engine, "work.give", {}).failure()
    boss = Actor.human("boss", permissions=["p.approve"])
    approved = execute(engine, "approvals.approve", {"approval_id": asked.details["approval_id"]}, boss).unwrap()
    assert approved.result == made
    assert_masked(storage)


@pytest.mark.parametrize("result", [Typed, dict[str, Annotated[str, Sensitive()]], Annotated[str, Sensitive()]])
def test_a_replay_shows_no_more_of_a_result_than_the_first_row(
    result: Any, engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage
) -> None:
    made = MARKER if get_origin(result) is Annotated else {"token": MARKER}

    def give(data: Any) -> Any:
        return Success(made)

    give.__annotations__["return"] = Result[result, ActionError]

    def pass_on(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        return Success({"inner": ctx.execute("work", "give", data).unwrap(), "text": f"a {MARKER}"})

    policy = ApprovalPolicy(when=lambda data, ctx: True, permission="p.approve")
    engine = engine_of(
        make_action("give", give), make_action("ask", give, approval=policy), make_action("pass_on", pass_on)
    )
    boss = RequestContext(
        tenant=acme, actor=Actor.human("boss", permissions=["p.approve"]), source="http", idempotency_key="k"
    )
    asked = execute(engine, "work.ask", {}, key="k").failure().details["approval_id"]
    for _ in range(2):
        assert execute(engine, "approvals.approve", {"approval_id": asked}, boss).unwrap().result == made
        assert execute(engine, "work.ask", {}, key="k").unwrap() == made
        assert execute(engine, "work.give", {}, key="k").unwrap() == made
        assert execute(engine, "work.pass_on", {}, key="k").unwrap()["inner"] == made
    assert_masked(storage)
    rows = [row for row in log_of(engine, acme) if row.action == "work.pass_on"]
    assert [row.outcome for row in rows] == ["succeeded", "replayed"]
    assert rows[0].output == rows[1].output
    assert rows[0].output["text"] == f"a {MASK}"


@pytest.mark.parametrize("waits", [False, True])
def test_a_replay_shows_no_more_of_a_payload_than_the_first_row(
    waits: bool, engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    def pass_on(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        return ctx.execute("work", "take", data["it"]).map(lambda value: 1)

    engine = engine_of(
        make_action("pass_on", pass_on),
        make_action(
            "take",
            lambda data: Success(1),
            validation=Marked,
            approval=ApprovalPolicy(when=lambda data, ctx: waits, permission="p.approve"),
        ),
    )
    payload = {"it": {"value": MARKER}, "text": f"a {MARKER}"}
    for _ in range(2):
        assert isinstance(execute(engine, "work.pass_on", payload, key="k"), Failure) == waits
    rows = [row for row in log_of(engine) if row.action == "work.pass_on"]
    assert [row.input for row in rows] == [{"it": {"value": MASK}, "text": f"a {MASK}"}] * 2
    assert_masked(storage)


def test_a_secret_result_is_masked_for_hooks(engine_of: EngineOf, execute: Execute, storage: InMemoryStorage) -> None:
    def give(data: Any) -> Result[dict[str, Annotated[str, Sensitive()]], ActionError]:
        return Success({"a": MARKER})

    engine = engine_of(
        make_action(
            "give",
            give,
            hooks=ActionHooks(after=(HookDefinition("work", "note"),)),
            result=ActionResultConfig(pipeline=True),
        ),
        make_action("note", lambda data: Success({"noted": 1})),
    )
    answer = execute(engine, "work.give", {}).unwrap()
    assert answer.data == {"noted": 1}
    assert MARKER not in repr(answer.pipeline)
    assert_masked(storage)


@pytest.mark.parametrize("key", [SecretStr, Annotated[str, Sensitive()]])
@pytest.mark.parametrize("place", ["a field", "the payload", "a result"])
def test_a_secret_key_is_masked_wherever_it_turns_up_again(
    key: Any, place: str, engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    keys: Any = dict[key, int]
    hidden = SecretStr(MARKER) if key is SecretStr else MARKER

    class Keys(BaseModel):
        tokens: keys

    def use(data: Any, ctx: ActionContext) -> Any:
        ctx.execute("work", "note", {"text": MARKER})
        ctx.emit("used", {"text": f"with {MARKER}"})
        return Success({hidden: 1}) if place == "a result" else Failure(f"no {MARKER}")

    if place == "a result":
        use.__annotations__["return"] = Result[keys, ActionError]
    validation: Any = {"a field": Keys, "the payload": keys, "a result": None}[place]
    engine = engine_of(make_action("use", use, validation=validation), make_action("note", lambda data: Success(data)))
    payload: Any = {"a field": {"tokens": {MARKER: 1}}, "the payload": {MARKER: 1}, "a result": {}}[place]
    answer = execute(engine, "work.use", payload)
    assert isinstance(answer, Success) == (place == "a result")
    assert MARKER not in told(answer)
    assert_masked(storage)


def test_extra_fields_are_masked_if_the_model_marks_them(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        __pydantic_extra__: dict[str, Annotated[str, Sensitive()]]

    def use(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        ctx.emit("used", {"it": Open.model_validate({"any": MARKER}), "text": f"a {MARKER}"})
        return Success(Open.model_validate({"any": MARKER}))

    engine = engine_of(make_action("take", use, validation=Open), make_action("make", use))
    execute(engine, "work.take", {"any": MARKER}).unwrap()
    execute(engine, "work.make", {}).unwrap()
    assert_masked(storage)


def test_secret_bytes_need_not_be_text(engine_of: EngineOf, execute: Execute) -> None:
    def give(data: Any) -> Any:
        return Success({"key": SecretBytes(b"\xff\xfe")})

    def give_typed(data: Any) -> Result[SecretBytes, ActionError]:
        return Success(SecretBytes(b"\xff\xfe"))

    engine = engine_of(make_action("give", give), make_action("give_typed", give_typed))
    for action in ("give", "give_typed"):
        execute(engine, f"work.{action}", {}).unwrap()
    assert [row.output for row in log_of(engine)] == [{"key": MASK}, MASK]


@pytest.mark.parametrize("number", [7, 123, 12.5])
def test_a_short_number_is_masked_by_its_place(
    number: float, engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage
) -> None:
    class Short(BaseModel):
        cvv: Annotated[float, Sensitive()]

    def use(data: Short, ctx: ActionContext) -> Result[Any, Any]:
        ctx.emit("made", {"cvv": number, "list": [{"cvv": number}]})
        ctx.execute("work", "inner", {"cvv": number})
        if data.cvv == 12.5:
            return Failure(ActionError(ErrorCode.CONFLICT, "no", {"cvv": number}))
        return Success({"cvv": number, "count": 1})

    engine = engine_of(
        make_action("use", use, validation=Short), make_action("inner", lambda d: Success({"cvv": number}))
    )
    answer = execute(engine, "work.use", {"cvv": number})
    if isinstance(answer, Success):
        assert answer.unwrap() == {"cvv": number, "count": 1}
    else:
        assert answer.failure().to_dict()["details"] == {"cvv": MASK}
    data = storage._tenant_data(acme.id)
    for encoded in [*(b"%b %b %b" % (row.input or b"", row.output or b"", row.error or b"") for row in data.log)]:
        assert f'"cvv":{number}'.encode() not in encoded
        assert b'"cvv":"**********"' in encoded
    for event in data.events:
        assert f'"cvv":{number}'.encode() not in event.payload


def test_the_names_of_one_action_do_not_mask_those_of_another(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(
        make_action("card", lambda d: Success(1), validation=Card),
        make_action("other", lambda d: Success(d)),
        make_action("root", lambda d: Success({"a": 1}), validation=Password),
    )
    execute(engine, "work.card", {"cvv": 123})
    execute(engine, "work.other", {"cvv": 123})
    execute(engine, "work.root", MARKER)
    assert [(row.input, row.output) for row in log_of(engine)] == [
        ({"cvv": MASK}, 1),
        ({"cvv": 123}, {"cvv": 123}),
        (MASK, {"a": 1}),
    ]


def test_a_secret_key_is_not_in_the_path_of_an_error(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    class Keys(BaseModel):
        tokens: dict[Annotated[str, Sensitive()], int]

    engine = engine_of(
        make_action("keys", lambda d: Success(1), validation=Keys),
        make_action("all", lambda d: Success(1), validation=dict[Annotated[str, Sensitive()], int]),
    )
    error = execute(engine, "work.keys", {"tokens": {MARKER: "x"}}).failure()
    assert error.details["fields"] == [{"path": "tokens", "reason": "is not valid", "type": "int_parsing"}]
    assert MARKER not in told(execute(engine, "work.all", {MARKER: "x"}))
    assert_masked(storage)


def test_a_resource_with_a_secret_is_masked_before_it_is_cut(
    engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage
) -> None:
    secret = MARKER * 30

    def ask(data: Token, ctx: ActionContext) -> Result[Any, Any]:
        ctx.authorize("keys.use", "key/" + data.value.get_secret_value())
        return Success(1)

    engine = engine_of(
        make_action("ask", ask, validation=Token),
        make_action(
            "own",
            lambda d: Success(1),
            validation=Token,
            permission="keys.use",
            resource=lambda data: "key/" + data.value.get_secret_value(),
        ),
    )
    system = RequestContext(tenant=acme, actor=Actor.system())
    role = {"name": "t", "allow": [{"permission": "keys.use", "resource": "key/1"}]}
    engine.execute_action("roles", "define", role, system).unwrap()
    engine.execute_action("roles", "assign", {"actor_type": "human", "actor_id": "tom", "role": "t"}, system).unwrap()
    tom = Actor.human("tom")
    for action in ("ask", "own"):
        error = execute(engine, f"work.{action}", {"value": secret}, tom).failure()
        assert error.code is ErrorCode.FORBIDDEN
        assert MARKER not in told(Failure(error))
    assert_masked(storage)


@pytest.mark.parametrize("decision", ["approve", "reject"])
@pytest.mark.parametrize("approver", ["may", "may_not"])
def test_an_approval_decision_masks_a_secret_resource(
    decision: str, approver: str, engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    resource = f"key/{MARKER}"
    engine = engine_of(
        make_action(
            "use",
            lambda d: Success(1),
            validation=Token,
            resource=lambda data: "key/" + data.value.get_secret_value(),
            approval=ApprovalPolicy(when=lambda data, ctx: True, permission="keys.use"),
        ),
        authorizer=StaticAuthorizer(
            {
                "may": Role(allow=[Rule("keys.use", resource)]),
                "may_not": Role(allow=["keys.use"], deny=[Rule("keys.use", resource)]),
            }
        ),
    )
    asked = execute(engine, "work.use", {"value": MARKER}).failure().details["approval_id"]
    for _ in range(2):
        answer = execute(
            engine, f"approvals.{decision}", {"approval_id": asked}, Actor.human("boss", roles=[approver]), key="k"
        )
        assert isinstance(answer, Success) == (approver == "may")
        assert MARKER not in told(answer)
    assert {row.outcome for row in log_of(engine)} > ({"replayed"} if approver == "may" else {"denied"})
    assert_masked(storage)


def test_a_replay_checks_a_secret_resource_and_masks_it(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    resource = f"key/{MARKER}"

    def ask(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        secret = ctx.execute("work", "give", {}).unwrap()
        ctx.authorize("keys.use", f"key/{secret.get_secret_value()}")
        return Success(1)

    engine = engine_of(
        make_action("ask", ask),
        make_action("give", lambda data: Success(SecretStr(MARKER))),
        authorizer=StaticAuthorizer(
            {
                "may": Role(allow=[Rule("keys.use", resource)]),
                "may_not": Role(allow=["keys.use"], deny=[Rule("keys.use", resource)]),
            }
        ),
    )
    for role in ("may", "may", "may_not"):
        assert MARKER not in told(execute(engine, "work.ask", {}, Actor.human("tom", roles=[role]), key="k"))
    assert [row.outcome for row in log_of(engine) if row.parent_id is None] == ["succeeded", "replayed", "denied"]
    assert_masked(storage)


@pytest.mark.parametrize(
    ("text", "secrets", "masked"),
    [
        ("abcd1234", {"abcd1234", "1234"}, MASK),
        ("<abcd1234>", {"1234", "abcd1234"}, f"<{MASK}>"),
        ("<abcdefghi>", {"abcdef", "defghi"}, f"<{MASK}>"),
        ("<aaaaaa>", {"aaaa"}, f"<{MASK}>"),
        ("abc", {"abc"}, MASK),
        ("<abc>", {"abc"}, "<abc>"),
        ("x ****- y", {"****-"}, f"x {MASK} y"),
        ("secret secret", {"secret"}, f"{MASK} {MASK}"),
    ],
)
def test_nothing_remains_of_secrets_that_overlap(text: str, secrets: set[str], masked: str) -> None:
    assert scrub_text(text, secrets) == masked


def test_unresolved_annotations_mask_by_their_text(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    from typing import Annotated as An

    from actionengine import Sensitive as Hidden

    @dataclasses.dataclass
    class Local:
        token: An[str, Hidden()]

    Local.__annotations__["token"] = "Nowhere[str, Sensitive()]"

    def emit(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.emit("made", {"a": Local(MARKER)})
        return Success(None)

    engine = engine_of(make_action("emit", emit))
    execute(engine, "work.emit", {}).unwrap()
    assert_masked(storage)
