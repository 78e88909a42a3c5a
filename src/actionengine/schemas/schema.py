"""Schemas as immutable values. Schemas share the objects of their unchanged fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Literal, get_args

from pydantic_core import to_json

from actionengine.storage.records import same_json

FieldType = Literal["string", "number", "boolean", "reference", "choice", "text", "date", "datetime"]
FIELD_TYPES: tuple[str, ...] = get_args(FieldType)

_HASH = sha256().digest_size


class Field:
    """A field of a record type. `definition` is the whole of it, with its name, and is never changed."""

    __slots__ = ("_fingerprint", "definition", "name")

    def __init__(self, definition: Mapping[str, Any]) -> None:
        self.definition = definition
        self.name: str = definition["name"]
        self._fingerprint: tuple[int, bytes] | None = None

    @staticmethod
    def of(name: str, definition: Mapping[str, Any]) -> Field:
        """Return a field of this name; it is optional unless the definition says otherwise."""
        return Field({"name": name, "type": definition["type"], "required": False, **definition} | {"name": name})

    @property
    def fingerprint(self) -> tuple[int, bytes]:
        """The number of bytes of its JSON, and the hash of these."""
        if self._fingerprint is None:
            json = to_json(self.definition)
            self._fingerprint = len(json), sha256(json).digest()
        return self._fingerprint

    @property
    def type(self) -> FieldType:
        """The type of its values."""
        type: FieldType = self.definition["type"]
        return type

    @property
    def required(self) -> bool:
        """Return whether each document must have it."""
        return bool(self.definition.get("required"))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Field) and same_json(self.definition, other.definition))

    def __hash__(self) -> int:
        return hash(self.name)


MAX_FIELDS = 1000
"""Fields of a record type, without inherited ones."""


class Schema:
    """The fields of one record type, in order. Operations return a new schema, which shares the other fields."""

    __slots__ = ("_by_name", "_hashes", "_names", "_size", "fields")

    def __init__(self, fields: tuple[Field, ...] = ()) -> None:
        self.fields = fields
        self._names: tuple[str, ...] | None = None
        self._by_name: dict[str, Field] | None = None
        self._size: int | None = None
        self._hashes: bytes | None = None

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Schema:
        """Return the schema of `{"fields": [{"name", "type", "required", …}]}`."""
        return Schema(tuple(Field(definition) for definition in document["fields"]))

    def document(self) -> dict[str, Any]:
        """Return the schema in its JSON form."""
        return {"fields": [field.definition for field in self.fields]}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields, in order."""
        if self._names is None:
            self._names = tuple(field.name for field in self.fields)
        return self._names

    @property
    def size(self) -> int:
        """Approximate bytes of its JSON."""
        return self.measure()[0]

    @property
    def sha256(self) -> str:
        """The hash of the hashes of its fields, in order."""
        return sha256(self.measure()[1]).hexdigest()

    def measure(self) -> tuple[int, bytes]:
        """Return the bytes and the hashes of the fields. Operations on a measured schema return measured schemas."""
        if self._size is None or self._hashes is None:
            fingerprints = [field.fingerprint for field in self.fields]
            self._size = sum(size for size, _ in fingerprints)
            self._hashes = b"".join(hash for _, hash in fingerprints)
        return self._size, self._hashes

    def get(self, name: str) -> Field | None:
        """Return the field of this name, if there is one."""
        if self._by_name is None:
            self._by_name = dict(zip(self.names, self.fields, strict=True))
        return self._by_name.get(name)

    def adding(self, field: Field, before: str | None = None) -> Schema:
        """Return a schema with one more field, before another one or at the end."""
        place = len(self.fields) if before is None else self.names.index(before)
        return self._with(place, place, field)

    def removing(self, name: str) -> Schema:
        """Return a schema without a field."""
        place = self.names.index(name)
        return self._with(place, place + 1)

    def replacing(self, name: str, field: Field) -> Schema:
        """Return a schema with another field in the place of one."""
        place = self.names.index(name)
        return self._with(place, place + 1, field)

    def _with(self, start: int, end: int, *fields: Field) -> Schema:
        schema = Schema((*self.fields[:start], *fields, *self.fields[end:]))
        schema._names = (*self.names[:start], *(field.name for field in fields), *self.names[end:])
        # Carry over the caches of the other fields: a replay of many ops then measures each field once.
        if self._by_name is not None:
            schema._by_name = self._by_name.copy()
            for name in self.names[start:end]:
                del schema._by_name[name]
            schema._by_name.update((field.name, field) for field in fields)
        if self._size is not None and self._hashes is not None:
            gone, new = self.fields[start:end], [field.fingerprint for field in fields]
            schema._size = self._size - sum(field.fingerprint[0] for field in gone) + sum(size for size, _ in new)
            added = b"".join(hash for _, hash in new)
            schema._hashes = self._hashes[: start * _HASH] + added + self._hashes[end * _HASH :]
        return schema

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.fields)

    def __repr__(self) -> str:
        return f"Schema({[dict(field.definition) for field in self.fields]})"
