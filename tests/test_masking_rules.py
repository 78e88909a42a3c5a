"""Rules of masking at their edges: secrets by name, by type and by value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypeVar, cast

import pytest
from pydantic import (
    AliasChoices,
    AliasGenerator,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    TypeAdapter,
    computed_field,
    create_model,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypeAliasType, TypedDict

from actionengine.masking.masking import (
    check_finite,
    forms_of,
    mask,
    masked_by_name,
    masked_finite_json,
    masked_json,
    masked_json_of,
    revealed_json,
    scrub,
    scrub_json,
    scrub_text,
    secrets_in,
)
from actionengine.masking.secret_types import (
    MASK,
    NOTHING,
    Everything,
    Sensitive,
    is_plain,
    leaves,
    revealed,
    searchable_json,
    sensitive_names,
    typed_secrets,
)

T = TypeVar("T")
Marked = Annotated[str, Sensitive()]


# By value, in texts


@pytest.mark.parametrize(
    ("text", "secrets", "expected"),
    [
        ("the card 4111 and 41112222", {"4111", "41112222"}, f"the card {MASK} and {MASK}"),
        ("41112222", {"4111", "41112222"}, MASK),
        ("x41112222y", {"41112222", "4111"}, f"x{MASK}y"),
        ("x41112222y", {"2222", "41112222"}, f"x{MASK}y"),
        ("abcdefgh", {"abcde", "defgh"}, MASK),
        ("abcdefghij", {"abcde", "defgh"}, f"{MASK}ij"),
        ("abcd-abcd", {"abcd"}, f"{MASK}-{MASK}"),
        ("abcdabcd", {"abcd"}, f"{MASK}{MASK}"),
        ("ababab!", {"abab"}, f"{MASK}!"),
        ("a pin of 123", {"123"}, "a pin of 123"),
        ("a pin of 1234.", {"1234"}, f"a pin of {MASK}."),
        ("123", {"123"}, MASK),
        ("nothing", set(), "nothing"),
        ("", {"secret"}, ""),
        ("secret", {"secret"}, MASK),
    ],
)
def test_no_part_of_a_secret_stays_in_a_text(text: str, secrets: set[str], expected: str) -> None:
    assert scrub_text(text, secrets) == expected


def test_scrubbing_goes_into_keys_values_and_numbers() -> None:
    secrets = {"hunter22", "1234", "99", "12.5"}
    value = {
        "hunter22": ["hunter22", {"deep": "it is hunter22"}],
        "number": 1234,
        "float": 12.5,
        "short": 99,
        "other": 12345,
        "flag": True,
        "none": None,
    }
    expected = {
        MASK: [MASK, {"deep": f"it is {MASK}"}],
        "number": MASK,
        "float": MASK,
        "short": 99,
        "other": 12345,
        "flag": True,
        "none": None,
    }
    assert scrub(value, secrets) == expected
    assert scrub_json(b'{"a":"hunter22"}', {"hunter22"}) == b'{"a":"**********"}'
    assert scrub({"True": True}, {"True"}) == {MASK: MASK} or scrub(True, {"True"}) is True


def test_a_secret_is_known_in_each_form_that_a_text_may_give_it() -> None:
    assert list(forms_of("plain")) == ["plain", "plain", "plain", "plain"]
    assert set(forms_of(" a'b\"c\n")) == {" a'b\"c\n", " a\\'b\"c\\n", " a'b\\\"c\\n", "a'b\"c"}
    assert "gr\\u00fc\\u00df" in set(forms_of("grüß"))
    lines = set(forms_of("-----BEGIN\n12345678\n1234567\nend"))
    assert {"-----BEGIN", "12345678"} <= lines
    assert "1234567" not in lines
    assert "end" not in lines
    assert set(forms_of("   ")) == {"   "}
    assert "12345678" not in set(forms_of("12345678 and more"))


# By name, in JSON


def test_what_stands_under_a_name_is_masked_at_every_level() -> None:
    names = frozenset({"pin"})
    value = {"pin": 1, "a": {"pin": [1, {"x": 2}], "b": [{"pin": None, "c": "pin"}]}, "pins": 3}
    assert mask(value, names) == {"pin": MASK, "a": {"pin": MASK, "b": [{"pin": MASK, "c": "pin"}]}, "pins": 3}
    assert mask(value, NOTHING) == value
    assert mask(value, Everything()) == MASK
    assert mask([], Everything()) == MASK


def test_what_stands_under_a_name_is_found_at_every_level() -> None:
    names = frozenset({"pin"})
    value = {"pin": [1, "two", {"x": 3.5, "y": True, "z": None}, ""], "a": [{"pin": "four", "b": "five"}], "c": "six"}
    assert sorted(secrets_in(value, names)) == ["1", "3.5", "four", "two"]
    assert sorted(secrets_in({"a": ["x", 1]}, Everything())) == ["1", "x"]
    assert list(secrets_in("text", names)) == []
    assert sorted(leaves({"a": ["x", 0, False, None, {"b": "y"}]})) == ["0", "x", "y"]


def test_masking_by_name_tells_what_it_masks() -> None:
    learned: set[str] = set()
    encoded = b'{"pin":"1234","old":{"pin":"**********"}}'
    assert masked_by_name(encoded, frozenset({"pin"}), learned.update) == (
        b'{"pin":"**********","old":{"pin":"**********"}}'
    )
    assert learned == {"1234"}
    assert masked_by_name(b'{"pin":1}', frozenset({"pin"})) == b'{"pin":"**********"}'


# By type: names


class Card(BaseModel):
    number: Marked = Field(validation_alias="pan", serialization_alias="printed")
    code: SecretStr = Field(alias="cvc")
    holder: str = ""


class Choices(BaseModel):
    a: SecretStr = Field(validation_alias=AliasChoices("first", AliasPath("outer", "inner", 0)))
    b: SecretBytes = Field(validation_alias=AliasPath("deep", "deeper"))
    c: str = Field(default="", alias="open")


class Login(TypedDict):
    user: str
    token: Annotated[SecretStr, Field(alias="theToken", serialization_alias="writtenToken")]


@dataclasses.dataclass
class Account:
    name: str
    password: Marked


@pydantic_dataclass(config=ConfigDict(alias_generator=str.upper))
class Loud:
    user: str
    pin: SecretStr
    key: Marked = Field(default="", alias="theKey", validation_alias="readKey", serialization_alias="writtenKey")


def loud(pin: str) -> Loud:
    return TypeAdapter(Loud).validate_python({"USER": "x", "PIN": pin})


@pydantic_dataclass(config=ConfigDict(alias_generator=AliasGenerator(alias=lambda name: f"x-{name}")))
class Generated:
    pin: SecretStr


class Pair(NamedTuple):
    name: str
    key: SecretStr


class OpenPair(NamedTuple):
    name: str
    key: str


class Box(BaseModel, Generic[T]):
    item: T


class Node(BaseModel):
    pin: SecretStr | None = None
    next: Node | None = None
    others: list[Node] = []


class WholeSecret(RootModel[SecretStr]):
    pass


class Cards(RootModel[list[Card]]):
    pass


class Renaming(BaseModel):
    model_config = ConfigDict(alias_generator=str.upper)
    pin: Marked


Pin = NewType("Pin", SecretStr)
OpenName = NewType("OpenName", str)
Alias = TypeAliasType("Alias", dict[str, SecretStr])

CARD = {"number", "pan", "printed", "code", "cvc"}


class Holder(BaseModel):
    plain: str
    card: Card
    optional: Card | None = None
    listed: list[Card] = []
    by_name: dict[str, Account] = {}
    root: WholeSecret | None = None
    cards: Cards | None = None
    pin: Pin | None = None
    named: OpenName | None = None
    alias: Alias | None = None
    pair: Pair | None = None
    open_pair: OpenPair | None = None
    packed: Json[Card] | None = None
    packed_text: Json[list[str]] | None = None
    many: list[SecretStr] = []
    by_key: dict[str, Marked] = {}
    custom: Secret[int] | None = None
    loud: Loud | None = None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (str, set()),
        (Any, set()),
        (list[int], set()),
        (Card, CARD),
        (list[Card], CARD),
        (dict[str, Card], CARD),
        (Card | None, CARD),
        (Annotated[Card, "note"], CARD),
        (Choices, {"a", "first", "inner", "b", "deeper"}),
        (Login, {"token", "theToken", "writtenToken"}),
        (Account, {"password"}),
        (Loud, {"pin", "PIN", "key", "KEY", "theKey", "readKey", "writtenKey"}),
        (Generated, {"pin", "x-pin"}),
        (OpenPair, set()),
        (Box[SecretStr], {"item"}),
        (Box[Card], CARD),
        (Box[str], set()),
        (Node, {"pin"}),
        (Cards, CARD),
        (Renaming, {"pin", "PIN"}),
        (OpenName, set()),
        (Json[list[str]], set()),
        (
            Holder,
            CARD
            | {"password", "root", "pin", "alias", "pair", "packed", "many", "by_key", "custom"}
            | {"PIN", "key", "KEY", "theKey", "readKey", "writtenKey"},
        ),
    ],
)
def test_the_names_of_a_type_are_those_of_its_secrets(kind: Any, expected: set[str]) -> None:
    names = sensitive_names(kind)
    assert not isinstance(names, Everything)
    assert names == expected
    assert bool(names) is bool(expected)


@pytest.mark.parametrize(
    "kind",
    [
        SecretStr,
        SecretBytes,
        Secret[int],
        Marked,
        Pin,
        Alias,
        Pair,
        WholeSecret,
        list[SecretStr],
        dict[str, Marked],
        SecretStr | None,
        tuple[int, SecretStr],
        Json[Card],
        Json[SecretStr],
        Annotated[Pin, "note"],
        type("Own", (SecretStr,), {}),
    ],
)
def test_a_type_can_be_secret_as_a_whole(kind: Any) -> None:
    names = sensitive_names(kind)
    assert isinstance(names, Everything)
    assert "whatever" in names
    assert bool(names) is True


def test_unresolved_annotations_are_read_by_their_text() -> None:
    @dataclasses.dataclass
    class Local:
        user: Missing  # type: ignore[name-defined]  # noqa: F821
        token: Missing[SecretStr]  # type: ignore[name-defined]  # noqa: F821
        pin: Annotated[Missing, Sensitive()]  # type: ignore[name-defined]  # noqa: F821

    assert sensitive_names(Local) == {"token", "pin"}


# By type: values


def masked(value: Any) -> tuple[Any, set[str]]:
    learned: set[str] = set()
    return TypeAdapter(Any).validate_json(masked_json(value, learned.update)), learned


def test_a_value_is_masked_by_the_types_of_all_that_is_in_it() -> None:
    card = Card(pan="4111", cvc=SecretStr("737"), holder="ann")
    shown = {"printed": MASK, "cvc": MASK, "holder": "ann"}
    by_name = {"number": MASK, "code": MASK, "holder": "ann"}
    assert masked(card)[1] == {"4111", "737"}
    assert masked(card)[0] in (shown, by_name)
    for wrapped in ([card], {"a": card}, (card,), {"a": [{"b": card}]}):
        text = masked_json(wrapped).decode()
        assert "4111" not in text
        assert "737" not in text
        assert "ann" in text
    assert masked(Account("ann", "hunter22")) == ({"name": "ann", "password": MASK}, {"hunter22"})
    assert masked([Account("ann", "hunter22")]) == ([{"name": "ann", "password": MASK}], {"hunter22"})
    assert masked(SecretStr("hunter22")) == (MASK, {"hunter22"})
    assert masked(WholeSecret(SecretStr("hunter22"))) == (MASK, {"hunter22"})
    assert masked({"plain": 1}) == ({"plain": 1}, set())
    assert masked({"when": (1, 2)}) == ({"when": [1, 2]}, set())


def test_secrets_of_a_value_are_found_with_their_names() -> None:
    found = typed_secrets(
        {"a": Account("ann", "hunter22"), "b": [Pair("n", SecretStr("key1"))], "c": {SecretStr("k2")}}
    )
    assert found.names == {"password"}
    assert found.values == {"hunter22", "key1", "k2"}
    assert typed_secrets([1, "x", None, 1.5]) == (frozenset(), frozenset())
    loop: list[Any] = [SecretStr("inside")]
    loop.append(loop)
    assert typed_secrets(loop).values == {"inside"}
    extra = type("Extra", (BaseModel,), {"model_config": ConfigDict(extra="allow")})
    assert typed_secrets(extra(more=SecretStr("extra1"))).values == {"extra1"}
    assert typed_secrets(Account).values == frozenset()


def test_an_adapter_says_what_is_secret_where_the_value_does_not() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(list[Marked])
    assert masked_json_of(adapter, ["hunter22"]) == b'["**********"]'
    by_alias: TypeAdapter[Any] = TypeAdapter(Card)
    encoded = masked_json_of(by_alias, Card(pan="4111", cvc=SecretStr("737")))
    assert encoded == b'{"printed":"**********","cvc":"**********","holder":""}'
    learned: set[str] = set()
    masked_json_of(by_alias, Card(pan="4111", cvc=SecretStr("737")), learned.update)
    assert learned == {"4111", "737"}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused_if_read_again(number: float) -> None:
    for value in (number, [number], {"a": number}, {"a": number, "b": None}):
        with pytest.raises(ValueError, match=r"^a number in it is not finite$"):
            masked_finite_json(value)
        with pytest.raises(ValueError, match="not finite"):
            masked_json_of(TypeAdapter(Any), value)
        with pytest.raises(ValueError, match="not finite"):
            check_finite(value, masked_json(value))
    assert masked_json([number]) == b"[null]"
    assert masked_finite_json((None, "null", 1.5)) == b'[null,"null",1.5]'
    assert masked_json_of(TypeAdapter(Any), [None, "null"]) == b'[null,"null"]'


def test_json_that_is_too_deep_is_refused_by_every_writer() -> None:
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    by_adapter = partial(masked_json_of, TypeAdapter(Any))
    writers: list[Callable[[Any], bytes]] = [masked_json, masked_finite_json, by_adapter]
    for write in writers:
        with pytest.raises(ValueError, match="nested deeper"):
            write(deep)


def test_a_fallback_gives_what_has_no_json_form() -> None:
    with pytest.raises(ValueError, match="serialize"):
        masked_json([object()])
    assert masked_json([object()], fallback=lambda value: "an object") == b'["an object"]'


def test_revealing_gives_everything_in_clear() -> None:
    card = Card(pan="4111", cvc=SecretStr("737"), holder="ann")
    assert revealed_json(card) == b'{"printed":"4111","cvc":"737","holder":"ann"}'
    assert revealed_json(card, by_alias=False) == b'{"number":"4111","code":"737","holder":"ann"}'
    assert revealed_json([card], by_alias=False) == b'[{"number":"4111","code":"737","holder":"ann"}]'
    assert revealed_json({"a": (card,)}, by_alias=False).startswith(b'{"a":[{"number"')
    assert revealed_json(Account("ann", "hunter22")) == b'{"name":"ann","password":"hunter22"}'
    assert revealed_json({SecretStr("key"): {SecretStr("x")}}) == b'{"key":["x"]}'
    assert revealed_json([float("nan")]) == b"[null]"
    assert revealed_json(Secret[int](5)) == b"5"
    assert b"object" in searchable_json([object(), SecretStr("x")])
    assert searchable_json([float("inf"), SecretStr("x")]) == b'[null,"x"]'


def test_plain_is_what_json_gives_back_as_it_is() -> None:
    plain: list[Any] = [1, "x", True, None, 1.5, [], {}, {"a": [1, {"b": None}]}]
    assert [is_plain(value) for value in plain] == [True] * len(plain)
    own = type("Own", (str,), {})
    odd: list[Any] = [
        float("nan"),
        (1,),
        {1: 2},
        {"a": (1,)},
        [object()],
        own("x"),
        {own("x"): 1},
        [float("inf")],
        b"x",
    ]
    assert [is_plain(value) for value in odd] == [False] * len(odd)


def test_a_marker_shows_itself_and_masks_under_masking_only() -> None:
    assert repr(Sensitive()) == "Sensitive()"
    adapter: TypeAdapter[Any] = TypeAdapter(Marked)
    assert adapter.dump_json("x") == b'"x"'
    assert adapter.dump_json("x", context={"other": True}) == b'"x"'
    assert adapter.validate_python("x") == "x"


# Walks over values


def found(value: Any) -> tuple[set[str], set[str]]:
    names, values = typed_secrets(value)
    return set(names), set(values)


def test_a_walk_learns_what_only_one_kind_of_field_marks() -> None:
    class ByMarker(BaseModel):
        pin: Marked

    class ByType(BaseModel):
        pin: SecretStr | None = None
        many: list[SecretStr] = []

    @dataclasses.dataclass
    class Own:
        pin: Marked
        nested: ByMarker | None = None
        missing: str = dataclasses.field(init=False)

    assert found(ByMarker(pin="p1")) == (set(), {"p1"})
    assert found(ByType(pin=SecretStr("p2"), many=[SecretStr("p3")])) == (set(), {"p2", "p3"})
    assert found(Own("p4", ByMarker(pin="p5"))) == ({"pin"}, {"p4", "p5"})
    assert found(OpenPair("n", "k")) == (set(), set())
    assert typed_secrets(MarkedPair("n", "k1")).values == {"k1"}
    assert typed_secrets({SecretStr("key"): 1}).values == {"key"}
    assert typed_secrets(frozenset({SecretStr("k7")})).values == {"k7"}
    assert typed_secrets((SecretStr("k8"),)).values == {"k8"}
    assert typed_secrets([Account("ann", "h1"), loud("l1")]).names == {
        "password", "pin", "PIN", "key", "KEY", "theKey", "readKey", "writtenKey",
    }  # fmt: skip


def test_a_secret_may_hold_what_json_cannot_carry() -> None:
    class Handle:
        pass

    holder: Secret[Any] = Secret(Handle())
    assert any("Handle" in value for value in typed_secrets(holder).values)
    assert typed_secrets(Secret(float("nan"))).values == frozenset()
    assert typed_secrets(Secret[dict[str, Any]]({"a": ["x", 5]})).values == {"x", "5"}


def test_names_are_cached_for_each_class() -> None:
    for _ in range(3):
        assert found(Account("ann", "h1")) == ({"password"}, {"h1"})
        assert typed_secrets(loud("l1")).values == {"l1"}


@dataclasses.dataclass
class GenericAccount(Generic[T]):
    name: str
    password: Marked
    item: T


class GenericLogin(TypedDict, Generic[T]):
    token: SecretStr
    item: T


class MarkedPair(NamedTuple):
    name: str
    key: Marked


@dataclasses.dataclass
class Chain:
    pin: Marked
    next: Chain | None = None


class Tagged(BaseModel):
    kind: str
    json_text: Json[Any] | None = None


def test_names_are_found_through_generics_and_circles() -> None:
    assert sensitive_names(GenericAccount[int]) == {"password"}
    assert sensitive_names(GenericLogin[int]) == {"token"}
    assert sensitive_names(list[GenericAccount[str]]) == {"password"}
    assert sensitive_names(Chain) == {"pin"}
    assert sensitive_names(tuple[Chain, Node]) == {"pin"}
    assert sensitive_names(Tagged) == set()
    assert sensitive_names(Annotated[list[Json[Card]], "note"]) is not NOTHING
    assert isinstance(sensitive_names(MarkedPair), Everything)
    assert sensitive_names(str) is NOTHING
    assert sensitive_names(tuple[int, ...]) is NOTHING
    assert sensitive_names(dict[str, "Missing"]) is NOTHING  # type: ignore[name-defined]  # noqa: F821
    both = sensitive_names(dict[str, WholeSecret] | Card)
    assert isinstance(both, Everything)
    twice = create_model("twice", one=(WholeSecret | None, None), two=(WholeSecret | None, None))
    assert sensitive_names(twice) == {"one", "two"}
    generated = create_model("generated", __config__=ConfigDict(alias_generator=AliasGenerator(
        validation_alias=lambda name: AliasChoices(f"v-{name}", "w"), serialization_alias=lambda name: f"s-{name}"
    )), pin=(SecretStr, ...))  # fmt: skip
    assert sensitive_names(generated) == {"pin", "v-pin", "w", "s-pin"}


@pydantic_dataclass(
    config=ConfigDict(
        alias_generator=AliasGenerator(
            alias=lambda name: f"a-{name}",
            validation_alias=lambda name: AliasPath("in", f"v-{name}"),
            serialization_alias=lambda name: f"s-{name}",
        )
    )
)
class GeneratedThrice:
    pin: SecretStr


def test_each_alias_that_a_generator_makes_is_a_name() -> None:
    assert {"pin", "a-pin", "s-pin", "v-pin"} <= sensitive_names(GeneratedThrice)


def test_revealing_goes_by_name_or_alias_all_the_way_down() -> None:
    class Inner(BaseModel):
        pin: SecretStr = Field(alias="cvc")

        @computed_field  # type: ignore[prop-decorator]
        @property
        def length(self) -> int:
            return 3

    @dataclasses.dataclass
    class Wrap:
        inner: Inner

    inner = Inner(cvc=SecretStr("737"))
    secret: Secret[Any] = Secret(inner)
    for value in (inner, [inner], {"a": inner}, (inner,), Wrap(inner), secret, {"a": [Wrap(inner)]}):
        assert b'"cvc":"737"' in revealed_json(value)
        assert b'"pin":"737"' in revealed_json(value, by_alias=False)
        assert b"length" not in revealed_json(value)
        assert b'"cvc"' not in revealed_json(value, by_alias=False)
    assert revealed(inner) == {"cvc": "737"}
    assert revealed({1: 2, (1,): 3}) == {1: 2, (1,): 3}
    assert revealed(Wrap) is Wrap
    assert revealed(Inner.model_construct(pin=cast("Any", 5))) == {"cvc": 5}


def test_a_finite_form_masks_and_tells_what_it_masks() -> None:
    learned: set[str] = set()
    assert masked_finite_json(Account("ann", "h1"), learned.update) == b'{"name":"ann","password":"**********"}'
    assert learned == {"h1"}
    assert masked_json(Account("ann", "h1")) == b'{"name":"ann","password":"**********"}'
    assert masked_json(["**", 1.5]) == b'["**",1.5]'
    assert b"".join([masked_json({"null": None}), masked_json((None,))]) == b'{"null":null}[null]'


def test_a_secret_number_need_not_be_finite() -> None:
    class Hidden(BaseModel):
        pin: Annotated[float, Sensitive()]
        note: str | None = None

    assert masked_finite_json(Hidden(pin=float("nan"))) == b'{"pin":"**********","note":null}'


def test_overlapping_occurrences_are_all_masked() -> None:
    assert scrub_text("aaaaa", {"aaaa"}) == MASK
    assert scrub_text("xabcabcaby", {"abcab"}) == f"x{MASK}y"
    assert scrub_text("one abcd, two abcd, three abcd", {"abcd"}) == f"one {MASK}, two {MASK}, three {MASK}"


def test_two_long_lines_are_two_secrets_and_a_lone_one_is_itself() -> None:
    assert "12345678" in set(forms_of("12345678\nx"))
    assert "87654321" in set(forms_of("x\n87654321"))


class CardPair(NamedTuple):
    name: str
    card: Card


@dataclasses.dataclass
class Wallet:
    name: str
    card: Card


NamedCard = NewType("NamedCard", Card)
AliasedCard = TypeAliasType("AliasedCard", Card)


@pytest.mark.parametrize("kind", [CardPair, Wallet, NamedCard, AliasedCard, list[CardPair], tuple[Wallet, int]])
def test_names_are_found_inside_of_what_holds_a_model(kind: Any) -> None:
    assert sensitive_names(kind) == CARD


def test_what_holds_a_model_is_walked_into() -> None:
    card = Card(pan="4111", cvc=SecretStr("737"))
    values: list[Any] = [CardPair("n", card), Wallet("n", card), {"a": (card,)}, Box[Card](item=card)]
    for value in values:
        assert typed_secrets(value).values == {"4111", "737"}


def test_a_path_of_one_name_is_a_name() -> None:
    only = create_model("only", pin=(SecretStr, Field(validation_alias=AliasPath("solo", 0))))
    assert sensitive_names(only) == {"pin", "solo"}


def test_revealing_says_nothing_of_values_of_other_types() -> None:
    class Count(BaseModel):
        number: int

    class Outer(BaseModel):
        secret: Secret[Any]

    assert revealed(Count.model_construct(number=cast("Any", "x"))) == {"number": "x"}
    held = Outer(secret=Secret(Renaming(PIN="1234")))
    assert revealed_json(held) == b'{"secret":{"PIN":"1234"}}'
    assert revealed_json(held, by_alias=False) == b'{"secret":{"pin":"1234"}}'
