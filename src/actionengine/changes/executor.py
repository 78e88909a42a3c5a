"""Executes the pending ops of a change in one unit of work, in three phases: load, transform, persist.

The number of statements is fixed, except that each edited file takes two more.
"""

from __future__ import annotations

from functools import partial

from actionengine.changes.diff import diff_schemas
from actionengine.changes.files import EditRefused, FileStep, ProjectFiles, edit_files, hunk_details
from actionengine.changes.load import Loaded, load
from actionengine.changes.ops import PatchOp
from actionengine.changes.outcomes import ExecutionRefused, refused, unprocessable
from actionengine.changes.persist import MergePlan, persist
from actionengine.changes.store import Store
from actionengine.changes.transform import OpRefused, transform
from actionengine.changes.type_graph import GraphError
from actionengine.errors import ErrorCode
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.tables import Row

MAX_SNAPSHOT_BYTES = 64 * 1024 * 1024
"""Approximate bytes of the schemas and files before each op of one execution."""


async def execute_ops(ctx: InternalContext, store: Store, change: Row, files: ProjectFiles) -> MergePlan:
    """Execute the pending ops of a locked change and return the written plan. Raises `ExecutionRefused`, and
    `ActionError(unavailable)` if files cannot be read."""
    plan = await plan_ops(ctx, store, change, files, lock=True)
    if plan.loaded.pending:
        await persist(store, plan, files)
    return plan


async def plan_ops(
    ctx: InternalContext, store: Store, change: Row, files: ProjectFiles | None, *, lock: bool = False
) -> MergePlan:
    """Load and transform: return the effect of the pending ops of a change. Without `files`, ops on files are ignored.
    Raises as `execute_ops` does."""
    loaded = await load(store, change, lock, files)
    # Edits of large files take a while.
    return await ctx.run(partial(transform_loaded, loaded)) if loaded.files else transform_loaded(loaded)


def transform_loaded(loaded: Loaded) -> MergePlan:
    """Apply the pending ops to the loaded record types and files.

    Raises `ExecutionRefused`: `unprocessable` with the op and the reason, `conflict` for a file that another change has
    edited since the op was added, so that the op no longer fits.
    """
    edits: list[FileStep] = []
    try:
        edited = {op.record_type for op in loaded.on_types}
        for key, type in loaded.graph.types.items():
            if key in edited:
                # The schemas after each op then are measured by the difference.
                type.schema.measure()
        transformed = transform(loaded.graph, loaded.on_types)
        size = sum(step.before.size for step in transformed.steps)
        _check_snapshot_bytes(loaded, size)
        for step in edit_files(loaded.files, loaded.on_files):
            edits.append(step)
            size += len(step.before or "")
            _check_snapshot_bytes(loaded, size)
    except OpRefused as refusal:
        raise unprocessable(loaded.change, refusal.op, refusal.reason) from None
    except EditRefused as refusal:
        raise _invalid_op_error(loaded, refusal) from None
    except GraphError as error:
        message = f"the ops would break a rule of inheritance: {error}"
        raise refused(loaded.change, ErrorCode.UNPROCESSABLE, message) from None
    by_type: dict[str, list[PatchOp]] = {}
    for op in loaded.pending:
        if op.record_type is not None:
            by_type.setdefault(op.record_type, []).append(op)
    types, schemas = loaded.graph.types, transformed.schemas
    diff = tuple(
        diff_schemas(key, types[key].version, types[key].schema, schemas[key], by_type[key]) for key in sorted(by_type)
    )
    return MergePlan(loaded, transformed, diff, tuple(edits))


def _check_snapshot_bytes(loaded: Loaded, size: int) -> None:
    if size > MAX_SNAPSHOT_BYTES:
        message = (
            f"the schemas and files before each of the {len(loaded.pending)} ops have more than "
            f"{MAX_SNAPSHOT_BYTES >> 20} MB together: spread the ops over several changes"
        )
        raise refused(loaded.change, ErrorCode.UNPROCESSABLE, message)


def _invalid_op_error(loaded: Loaded, refusal: EditRefused) -> ExecutionRefused:
    op, error, change = refusal.op, refusal.error, loaded.change
    latest = loaded.files[op.file_path].latest
    details = {"op_id": op.id, "op_type": op.op_type, "file_path": op.file_path, "reason": error.message}
    details |= hunk_details(error)
    if latest is None or latest.change_id == change["id"] or latest.executed_at <= loaded.added[op.id]:
        return refused(change, ErrorCode.UNPROCESSABLE, f"{op}: {error.message}", **details)
    message = (
        f"{op}: since the op {op.id} was added, the change {latest.change_id} has edited the file: {error.message}"
    )
    since = {"id": latest.op_id, "change_id": latest.change_id}
    return refused(change, ErrorCode.CONFLICT, message, **details, since=since)
