"""The effect of ops on a schema: added, removed, renamed and changed fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from actionengine.changes.ops import PatchOp
from actionengine.schemas.fields import FieldDefinition
from actionengine.schemas.json_schemas import SchemaOf
from actionengine.schemas.schema import Schema
from actionengine.storage.records import same_json

FieldDocument = Annotated[dict[str, object], SchemaOf(FieldDefinition)]
"""The JSON form of a field."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class RenamedField(_Part):
    """A renamed field."""

    old_name: str = Field(description="The name before.")
    new_name: str = Field(description="The name after.")


class ChangedField(_Part):
    """A field with another definition; `field` is its new name."""

    field: str = Field(description="The name of the field after the change.")
    before: FieldDocument = Field(description="The definition before.")
    after: FieldDocument = Field(description="The definition after.")


class TypeDiff(_Part):
    """The effect of a change on one record type. Fields are given as definitions with names; `moved` names the fields
    that ops placed before another one."""

    record_type_key: str = Field(description="The key of the record type.")
    from_version: int = Field(description="The version before.")
    to_version: int = Field(description="The version after.")
    added: tuple[FieldDocument, ...] = Field(default=(), description="The definitions of new fields.")
    removed: tuple[FieldDocument, ...] = Field(default=(), description="The definitions of removed fields.")
    renamed: tuple[RenamedField, ...] = Field(default=(), description="The renamed fields.")
    changed: tuple[ChangedField, ...] = Field(default=(), description="The fields with another definition.")
    moved: tuple[str, ...] = Field(default=(), description="The fields that were placed before another one.")


def diff_schemas(key: str, version: int, before: Schema, after: Schema, ops: Iterable[PatchOp]) -> TypeDiff:
    """Return the difference that ops made to the schema of a type. Ops on other types are ignored."""
    own = [op for op in ops if op.record_type == key]
    origins = original_names(before, own)
    placed = {op.field for op in own if op.op_type == "set_field" and "before" in op.payload}
    kept = {name: origin for name, origin in origins.items() if origin is not None}
    survivors = set(kept.values())
    return TypeDiff(
        record_type_key=key,
        from_version=version,
        to_version=version + 1,
        added=tuple(dict(field.definition) for field in after if field.name not in kept),
        removed=tuple(dict(field.definition) for field in before if field.name not in survivors),
        renamed=tuple(
            RenamedField(old_name=kept[field.name], new_name=field.name)
            for field in after
            if kept.get(field.name, field.name) != field.name
        ),
        changed=tuple(
            ChangedField(field=field.name, before=dict(old), after=dict(field.definition))
            for field in after
            if field.name in kept and not _same(old := _definition(before, kept[field.name]), field.definition)
        ),
        moved=tuple(field.name for field in after if field.name in placed),
    )


def original_names(before: Schema, ops: Iterable[PatchOp]) -> dict[str, str | None]:
    """Return for each field after the ops its name before them; None for a new field."""
    origins: dict[str, str | None] = {field.name: field.name for field in before}
    for op in ops:
        assert op.field is not None
        if op.op_type == "add_field":
            origins[op.field] = None
        elif op.op_type == "remove_field":
            del origins[op.field]
        elif op.op_type == "rename_field":
            origins[op.payload["new_name"]] = origins.pop(op.field)
    return origins


def _definition(schema: Schema, name: str) -> Mapping[str, object]:
    field = schema.get(name)
    assert field is not None
    return field.definition


def _same(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    return same_json({**old, "name": ""}, {**new, "name": ""})
