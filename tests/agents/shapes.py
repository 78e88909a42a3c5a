"""Inputs of every shape that a declaration may have, and an engine with an action for each."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

from pydantic import AnyUrl, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, WithJsonSchema, create_model
from returns.result import Success
from typing_extensions import TypedDict

from actionengine import Engine, Service, create_action, create_engine, create_service

_A = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Card(BaseModel):
    model_config = ConfigDict(regex_engine="python-re")

    kind: Literal["card"]
    number: str = Field(pattern=r"^(?!0)\d{4}$", description="The digits")
    limit: int | None = 5


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"
    coins: dict[str, int] = {}


class Point(NamedTuple):
    x: int
    y: int


class Extra(TypedDict, total=False):
    note: str
    colour: Colour


class Node(BaseModel):
    value: int
    children: list[Node] = []


class Tree(BaseModel):
    name: str
    left: Tree | None = None
    right: Tree | None = None
    root: Node | None = None


class Bounds(BaseModel):
    """Every constraint."""

    model_config = ConfigDict(extra="forbid", title="The bounds")

    text: str = Field(min_length=2, max_length=5, examples=["abc"])
    pattern: str = Field("ab", pattern="^[ab]+$")
    whole: int = Field(ge=1, lt=10, multiple_of=2)
    number: float = Field(0.5, gt=0, le=1)
    some: list[int] = Field([1], min_length=1, max_length=3)
    many: list[int] = Field([1, 2, 3], min_length=3)
    unique: set[str] = set()
    keyed: dict[Annotated[str, Field(pattern="^[a-z]$")], int] = Field({}, max_length=4)
    by_colour: dict[Colour, int] = {}
    price: Decimal = Field(Decimal("1.5"), max_digits=5, decimal_places=2)


class Formats(BaseModel):
    at: datetime
    day: date
    hour: time
    lasts: timedelta
    id: UUID
    url: AnyUrl
    data: bytes = b""


class Choices(BaseModel):
    colour: Colour = Colour.RED
    level: Level
    flag: Literal[True]
    mixed: Literal[1, "x", None]
    nothing: None = None
    one: Literal["only"]


class Unions(BaseModel):
    pay: Annotated[Card | Cash, Field(discriminator="kind")]
    either: Card | Cash | None = None
    scalar: int | str | None = None
    lists: list[int] | dict[str, int] | None = None
    any_or_int: int | Any = 1


class Open(BaseModel):
    anything: Any
    value: JsonValue = None
    table: dict[str, list[Node]] = {}
    bare_object: dict  # type: ignore[type-arg]
    bare_list: list  # type: ignore[type-arg]
    point: Point
    pair: tuple[int, str] = (1, "a")
    first_and_more: tuple[int, ...] = ()
    extra: Extra = {}
    empty: Empty | None = None


class Empty(BaseModel):
    """Nothing."""


class Names(BaseModel):
    strange: int = Field(alias="größe in m²")
    dotted: int = Field(2, alias="a.b")
    idempotency_key: str = "mine"


class Written(BaseModel):
    """Schemas that a host wrote itself."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["listed"]}, {"required": ["both"]}]})

    listed: Annotated[Any, WithJsonSchema({"type": ["string", "integer", "null"], "minLength": 1, "maximum": 5})] = None
    both: Annotated[Any, WithJsonSchema({"allOf": [_A, {"properties": {"b": {"type": "string"}}}]})] = None
    object_or_null: Annotated[Any, WithJsonSchema({"type": ["object", "null"], "properties": {"a": True}})] = None
    refused: Annotated[Any, WithJsonSchema({"not": {}})] = None
    if_then: Annotated[Any, WithJsonSchema({"type": "integer", "if": {"minimum": 3}, "then": {"maximum": 5}})] = 1
    constants: Annotated[Any, WithJsonSchema({"enum": [{"a": 1}, [2]]})] = None
    contains: Annotated[Any, WithJsonSchema({"type": "array", "contains": {"type": "integer"}})] = None


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str


def nested(levels: int) -> Any:
    """Return a model of so many nested objects."""
    models: list[Any] = [create_model("Level", value=(int, 1))]
    for number in range(levels - 1):
        models.append(create_model(f"Level{number}", inner=(models[-1], ...)))
    return models[-1]


TYPES: dict[str, Any] = {
    "bounds": Bounds,
    "formats": Formats,
    "choices": Choices,
    "unions": Unions,
    "open": Open,
    "names": Names,
    "loose": Loose,
    "written": Written,
    "empty": Empty,
    "tree": Tree,
    "node": Node,
    "deep": nested(12),
    "union": TypeAdapter(Card | Cash),
    "list": list[Node],
    "scalar": int,
    "table": dict[str, int],
    "any": None,
}


def make_shapes(services: Iterable[Service] = (), **options: Any) -> Engine:
    """Return an engine with one action for each shape, and with other services."""
    actions = [
        create_action(
            name=name,
            description=f"Take a {name}",
            handler=lambda data: Success(None),
            validation=type,
            is_protected=False,
            idempotency="required" if name in ("names", "table") else "optional",
        )
        for name, type in TYPES.items()
    ]
    service = create_service(name="shapes", description="Shapes", actions=actions)
    return create_engine(services=[service, *services], **options)
