"""A marker in a sensitive field is in no row, log line, event or error."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, NewType

import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    SecretStr,
    field_validator,
    model_validator,
)
from returns.result import Failure, Result, Success
from typing_extensions import TypedDict

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
    Sensitive,
    Tenant,
)
from tests.conftest import EngineOf, Execute, log_of, make_action

MARKER = "4111-marker-1111"


class Card(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    number: Annotated[str, Sensitive()] = Field(validation_alias=AliasChoices("number", "pan"))
    pin: SecretStr | None = None


class Payment(BaseModel):
    amount: int
    cards: list[Card] = []
    token: Annotated[str, Sensitive()] | None = None

    @field_validator("amount")
    @classmethod
    def not_thirteen(cls, amount: int) -> int:
        if amount == 13:
            raise ValueError("unlucky")
        return amount

    @model_validator(mode="after")
    def not_fourteen(self) -> Payment:
        if self.amount == 14:
            raise ValueError(f"{self.cards} cannot pay 14")
        return self


class Issued(BaseModel):
    key: SecretStr
    also: Annotated[str, Sensitive()]


def leak_everywhere(data: Payment, ctx: ActionContext) -> Result[Any, Any]:
    number = data.cards[0].number
    ctx.emit("paid", {"card": number, "note": f"paid with {number}", "model": data}, subject=f"card/{number}")
    logging.getLogger("actionengine").debug("nothing of ours")
    match data.amount:
        case 1:
            raise ValueError(f"the card {number} is stolen")
        case 2:
            return Failure(f"the card {number} is empty")
        case 3:
            return Failure(ActionError(ErrorCode.CONFLICT, f"{number}", {"card": number, number: [{"deep": number}]}))
        case 4:
            return Success({"card": number, "model": data, "text": f"<{number}>"})
        case 5:
            return Success(Issued(key=SecretStr(number), also=number))
        case 6:
            ctx.execute("pay", "charge", {"raw": number})
            return ctx.execute("work", "inner", {"anything": number})
    return Success({"ok": True})


def inner(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    raise OSError(f"inner saw {data}")


def hook(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success(data)


def broken_hook(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Failure(f"hook saw {data}")


PAYLOADS: dict[str, Any] = {
    "a crash": {"amount": 1, "cards": [{"number": MARKER}]},
    "a text": {"amount": 2, "cards": [{"pan": MARKER}]},
    "an error with details": {"amount": 3, "cards": [{"number": MARKER}]},
    "a plain result": {"amount": 4, "cards": [{"number": MARKER}]},
    "a typed result": {"amount": 5, "cards": [{"number": MARKER}]},
    "a nested action": {"amount": 6, "cards": [{"number": MARKER}]},
    "a success": {"amount": 7, "cards": [{"number": MARKER, "pin": MARKER}], "token": MARKER},
    "a validator's text": {"amount": 13, "cards": [{"number": MARKER}]},
    "a model validator's text": {"amount": 14, "cards": [{"number": MARKER}]},
    "a field of the wrong type": {"amount": 8, "cards": [{"number": {"nested": [MARKER]}}]},
    "a model of the wrong type": {"amount": 8, "cards": {"number": MARKER}},
    "an unreadable amount": {"amount": "many", "cards": [{"pin": MARKER, "number": MARKER}]},
    "a list instead": [{"number": MARKER}],
    "an approval": {"amount": 5000, "cards": [{"number": MARKER}]},
}


def everything_written(storage: InMemoryStorage, tenant: Tenant) -> Iterator[str]:
    data = storage._tenant_data(tenant.id)
    yield from (repr(row) for row in data.log)
    yield from (repr(event) for event in data.events)


@pytest.mark.parametrize("diagnostics", [False, True])
@pytest.mark.parametrize("what", PAYLOADS)
def test_no_secret_is_written_or_told(
    what: str,
    diagnostics: bool,
    engine_of: EngineOf,
    execute: Execute,
    acme: Tenant,
    storage: InMemoryStorage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hooks = ActionHooks(
        before=(HookDefinition("work", "broken_hook", is_critical=False), HookDefinition("work", "hook")),
        after=(HookDefinition("work", "broken_hook", is_critical=False),),
    )
    policy = ApprovalPolicy(when=lambda data, ctx: data.amount > 1000, permission="pay.approve")
    engine = engine_of(
        make_action(
            "pay",
            leak_everywhere,
            validation=Payment,
            hooks=hooks,
            approval=policy,
            result=ActionResultConfig(pipeline=True),
            resource=lambda data: f"payment/{data.amount}",
        ),
        make_action("hook", hook),
        make_action("broken_hook", broken_hook),
        make_action("inner", inner),
        diagnostics=diagnostics,
    )
    reason = f"the card {MARKER} again"
    context = RequestContext(tenant=acme, actor=Actor.human("ann"), idempotency_key="k", reason=reason)
    with caplog.at_level(logging.DEBUG):
        answer = execute(engine, "work.pay", PAYLOADS[what], context)
    if isinstance(answer, Failure):
        assert MARKER not in str(answer.failure().to_dict())
        assert MARKER not in str(answer.failure())
    else:
        assert MARKER not in repr(answer.unwrap().pipeline)
    for written in everything_written(storage, acme):
        assert MARKER not in written
    for record in caplog.records:
        assert MARKER not in record.getMessage() + repr(record.__dict__.get("actionengine"))
        assert record.exc_info is None
    reader = RequestContext(tenant=acme, actor=Actor.human("boss", permissions=["pay.*"]))
    approvals = engine.execute_action("approvals", "list", {}, reader).unwrap()
    assert MARKER not in str(approvals)
    assert len(log_of(engine, acme)) > 0


def test_handler_gets_the_secret_and_retry_the_whole_result(engine_of: EngineOf, execute: Execute) -> None:
    def issue(data: Card) -> Result[Issued, ActionError]:
        return Success(Issued(key=SecretStr(data.number), also=data.number))

    engine = engine_of(make_action("issue", issue, validation=Card))
    first = execute(engine, "work.issue", {"number": MARKER}, key="k").unwrap()
    second = execute(engine, "work.issue", {"number": MARKER}, key="k").unwrap()
    assert first == second
    assert second.key.get_secret_value() == MARKER
    assert [row.output for row in log_of(engine)] == [{"key": "*" * 10, "also": "*" * 10}] * 2


def test_other_secrets_make_another_payload(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", lambda d: Success(1), validation=Card))
    assert execute(engine, "work.go", Card(number="a", pin=SecretStr("one")), key="k") == Success(1)
    other = execute(engine, "work.go", Card(number="a", pin=SecretStr("two")), key="k").failure()
    assert other.code is ErrorCode.IDEMPOTENCY_MISMATCH


def test_an_approved_action_runs_with_the_secret(engine_of: EngineOf, execute: Execute) -> None:
    seen: list[str] = []

    def pay(data: Card) -> Result[Any, Any]:
        seen.append(data.number)
        return Success(None)

    policy = ApprovalPolicy(when=lambda data, ctx: True, permission="pay.approve")
    engine = engine_of(make_action("pay", pay, validation=Card, approval=policy))
    asked = execute(engine, "work.pay", {"number": MARKER}, Actor.human("ann"))
    boss = Actor.human("boss", permissions=["pay.approve"])
    approval = {"approval_id": asked.failure().details["approval_id"]}
    assert isinstance(execute(engine, "approvals.approve", approval, boss), Success)
    assert seen == [MARKER]
    assert all(MARKER not in repr(row) for row in log_of(engine))


@dataclasses.dataclass
class Login:
    user: str
    password: Annotated[str, Sensitive()]


@pytest.mark.parametrize("validation", [SecretStr, Annotated[str, Sensitive()]])
def test_a_payload_that_is_a_secret_as_a_whole_is_masked(
    engine_of: EngineOf, execute: Execute, validation: Any
) -> None:
    engine = engine_of(make_action("go", lambda d: Failure("no"), validation=validation))
    execute(engine, "work.go", MARKER)
    assert [row.input for row in log_of(engine)] == ["*" * 10]


def test_fields_of_a_dataclass_are_masked(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", lambda d: Success(d), validation=Login))
    execute(engine, "work.go", {"user": "ann", "password": MARKER})
    (row,) = log_of(engine)
    assert row.input == row.output == {"user": "ann", "password": "*" * 10}


class Key(NamedTuple):
    name: str
    secret: SecretStr


class Login2(TypedDict):
    token: Annotated[SecretStr, Field(alias="theToken")]


class Wrapped(BaseModel):
    key: Key | None = None
    packed: Json[Card] | None = None
    renamed: NewType("Renamed", SecretStr) | None = None  # type: ignore[valid-type]
    typed: Login2 | None = None
    pem: Annotated[str, Sensitive()] | None = None


@pytest.mark.parametrize(
    "payload",
    [
        {"key": ["n", MARKER]},
        {"packed": '{"number": "' + MARKER + '"}'},
        {"renamed": MARKER},
        {"typed": {"theToken": MARKER}},
        {"pem": f"-----BEGIN-----\n{MARKER}\n-----END-----"},
    ],
)
def test_secrets_are_found_in_every_shape(
    engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage, payload: Any
) -> None:
    def quote(data: Wrapped) -> Result[Any, Any]:
        if data.pem is not None:
            return Failure(f"cannot read {data.pem!r}")
        return Success("fine")

    engine = engine_of(make_action("go", quote, validation=Wrapped))
    answer = execute(engine, "work.go", payload)
    assert MARKER not in str(answer)
    assert all(MARKER not in written for written in everything_written(storage, acme))


class Handle:
    """A value that a validator makes and JSON cannot have."""


def test_a_model_with_a_secret_may_hold_what_json_cannot_carry(engine_of: EngineOf, execute: Execute) -> None:
    class Opened(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)

        token: Annotated[str, Sensitive()]
        handle: Annotated[Handle, BeforeValidator(lambda name: Handle())]

    def use(data: Opened) -> Result[Any, Any]:
        return Success(type(data.handle).__name__)

    engine = engine_of(make_action("go", use, validation=Opened))
    assert execute(engine, "work.go", {"token": MARKER, "handle": "x"}) == Success("Handle")


def test_a_secret_that_a_before_hook_supplies_is_masked(
    engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage
) -> None:
    hooks = ActionHooks(before=(HookDefinition("work", "look_up"),))
    engine = engine_of(
        make_action("pay", lambda d: Failure(f"no {d.number}"), validation=Card, hooks=hooks),
        make_action("look_up", lambda d: Success({"number": MARKER}), read_only=True),
    )
    assert MARKER not in str(execute(engine, "work.pay", {"ref": 1}).failure().to_dict())
    assert all(MARKER not in written for written in everything_written(storage, acme))


def test_a_replay_masks_what_the_first_result_masked(
    engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage
) -> None:
    engine = engine_of(make_action("go", lambda d: Success(Issued(key=SecretStr(MARKER), also="a"))))
    for _ in range(2):
        assert MARKER not in str(execute(engine, "work.go", {}, key="k").unwrap())
    assert all(MARKER not in written for written in everything_written(storage, acme))
