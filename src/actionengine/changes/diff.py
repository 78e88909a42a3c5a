"""The effect of ops on a schema: added, removed, renamed and changed fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict

from actionengine.changes.ops import PatchOp
from actionengine.schemas.schema import Schema
from actionengine.storage.records import same_json


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class RenamedField(_Part):
    """A renamed field."""

    old_name: str
    new_name: str


class ChangedField(_Part):
    """A field with another definition; `field` is its new name."""

    field: str
    before: dict[str, object]
    after: dict[str, object]


class TypeDiff(_Part):
    """The effect of a change on one record type. Fields are given as definitions with names; `moved` names the fields
    that ops placed before another one."""

    record_type_key: str
    from_version: int
    to_version: int
    added: tuple[dict[str, object], ...] = ()
    removed: tuple[dict[str, object], ...] = ()
    renamed: tuple[RenamedField, ...] = ()
    changed: tuple[ChangedField, ...] = ()
    moved: tuple[str, ...] = ()


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
