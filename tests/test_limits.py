"""The limits that clients meet: a value at the limit is accepted, and one more is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    ConfigurationError,
    Engine,
    ErrorCode,
    InMemoryStorage,
    Limits,
    RBACAuthorizer,
    Relay,
    RequestContext,
    SQLiteStorage,
    Tenant,
    create_engine,
    create_service,
    replay,
)
from actionengine.authorization.questions import MAX_QUESTIONS
from actionengine.boundary.files.files import MAX_BYTES as MOST_FILE_BYTES
from actionengine.boundary.idempotency.working_copy import MAX_DIFF_BYTES
from actionengine.builtin import roles
from actionengine.builtin.action_log import MAX_SEARCH_LENGTH, MAX_SEARCH_WORDS
from actionengine.builtin.cause_tree import MAX_NODES
from actionengine.changes import change_control_services, drafts, executor, transform
from actionengine.concurrency.run_sync import run_sync
from actionengine.conditions import conditions
from actionengine.conditions.templates import MAX_RENDERED_BYTES
from actionengine.context import MAX_ACTOR_ID_LENGTH, MAX_NAME_LENGTH, MAX_TEXT_LENGTH
from actionengine.events.consumers.consumer import MAX_CONSUMER_NAME_LENGTH
from actionengine.events.publishers.fanout import nobody
from actionengine.pipeline.action_log import MAX_ERROR_BYTES
from actionengine.pipeline.plan import MAX_ACTION_NAME_LENGTH, sync_and_async
from actionengine.schemas.fields import MAX_CHOICES
from actionengine.schemas.schema import MAX_FIELDS
from actionengine.storage import tenants
from actionengine.storage.outbox import MAX_COUNTED_LAG
from actionengine.storage.pages import MAX_PAGE, MAX_PAGE_BYTES
from actionengine.storage.records import MAX_ID_LENGTH, ROLE_ASSIGNMENTS
from actionengine.storage.rows import MAX_FLUSHED_SUBJECTS, MAX_SUBJECT_LENGTH
from actionengine.storage.sql.action_log import MAX_EXAMINED
from actionengine.storage.words import MAX_WORDS
from actionengine.text.json_bounds import MAX_JSON_DEPTH, MAX_JSON_DIGITS
from actionengine.text.names import MAX_PERMISSION_LENGTH
from actionengine.workflows import workflow_services
from actionengine.workflows.definitions.definition import MAX_STEPS
from actionengine.workflows.definitions.parse import MAX_BYTES
from actionengine.workflows.definitions.triggers import MAX_BYTES as MAX_TRIGGER_BYTES
from actionengine.workflows.runs import run, start
from actionengine.workflows.services.quotas import MAX_TRIGGERS
from tests.backends import AnyStorage
from tests.conftest import make_action
from tests.growth import count

PAGE = (Path(__file__).parent.parent / "docs" / "limits.md").read_text()
BOSS = Actor.human("boss", permissions=["*"])
LIMITS = Limits(payload_bytes=200_000, payload_depth=20, key_length=40, event_bytes=3000)


def _about(data: dict[str, str]) -> str:
    return data["resource"]


@sync_and_async
async def _ask(data: dict[str, str], ctx: ActionContext) -> Result[Any, ActionError]:
    await ctx.authorize_async(data.get("permission", "notes.read"), data.get("resource"))
    return Success(None)


@sync_and_async
async def _open(data: str, ctx: ActionContext) -> Result[Any, ActionError]:
    await ctx.async_records(data).insert({})
    return Success(None)


@sync_and_async
async def _insert(data: str, ctx: ActionContext) -> Result[Any, ActionError]:
    await ctx.async_records("notes").insert({}, data)
    return Success(None)


@sync_and_async
async def _emit(data: dict[str, str], ctx: ActionContext) -> Result[Any, ActionError]:
    ctx.emit(data.get("type", "told"), data.get("payload"), data.get("subject"))
    return Success(None)


@sync_and_async
async def _return(data: int, ctx: ActionContext) -> Result[Any, ActionError]:
    return Success("x" * data)


HANDLERS: Mapping[str, Callable[..., Any]] = {"open": _open, "insert": _insert, "emit": _emit, "ask": _ask}


class Office:
    """A tenant, and an engine with all services."""

    def __init__(self, storage: AnyStorage | None = None) -> None:
        self.storage: AnyStorage = storage or InMemoryStorage()
        self.tenant: Tenant = self.storage.create_tenant(slug=f"t-{uuid4().hex}", name="Acme")
        self.authorizer = RBACAuthorizer(self.storage)
        actions = [make_action(name, each) for name, each in HANDLERS.items()]
        about = make_action("about", lambda data: Success(None), resource=_about)
        returning = make_action("return", _return)
        notes = create_service(name="notes", description="x", actions=[*actions, about, returning])
        services = [*workflow_services(), *change_control_services(), notes]
        self.engine: Engine = create_engine(
            services=services, storage=self.storage, authorizer=self.authorizer, limits=LIMITS
        )

    def ask(self, name: str, payload: Any, mode: str = "sync", **request: Any) -> Result[Any, ActionError]:
        service, _, action = name.partition(".")
        context = RequestContext(**{"tenant": self.tenant, "actor": BOSS, **request})
        if mode == "sync":
            return self.engine.execute_action(service, action, payload, context)
        return asyncio.run(self.engine.execute_action_async(service, action, payload, context))

    def records(self, **page: Any) -> Sequence[Any]:
        """Return a page of an empty collection."""
        unit = self.storage.unit_of_work(self.tenant, str(uuid4()), "sync", read_only=True)
        try:
            return run_sync(unit.records("nothing").list(**page))
        finally:
            run_sync(unit.rollback())


class Limit(NamedTuple):
    """A row of the table: an action, its limit, and a function that makes a payload or request of that size."""

    action: str
    most: int
    payload: Callable[[int], Any] = lambda number: None
    request: Callable[[int], Mapping[str, Any]] = lambda number: {}
    error: ErrorCode = ErrorCode.INVALID_INPUT


def text(number: int) -> str:
    return "x" * number


def rules(number: int) -> dict[str, Any]:
    return {"name": "r", "allow": [{"permission": f"p{index}"} for index in range(number)]}


def one_rule(**rule: str) -> dict[str, Any]:
    return {"name": "r", "allow": [rule]}


def assign(**changes: str) -> dict[str, Any]:
    return {"actor_type": "human", "actor_id": "ann", "role": "r", **changes}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def definition(steps: int = 1) -> dict[str, Any]:
    return {
        "steps": [{"name": f"s{index}", "type": "notification", "to": "a", "message": "m"} for index in range(steps)]
    }


def padded(value: Mapping[str, Any], name: str, size: int) -> dict[str, Any]:
    """Return an object of this many bytes as JSON, with a text of that name."""
    return {**value, name: "x" * (size - len(to_json({**value, name: ""})))}


def trigger(size: int) -> dict[str, Any]:
    pad = size - len(to_json({"type": "event", "event_type": "e", "input": {"pad": ""}}))
    return {"key": "w", "trigger": {"type": "event", "event_type": "e", "input": {"pad": "x" * pad}}}


def fields(number: int) -> dict[str, Any]:
    each = [{"name": f"f{index}", "type": "string"} for index in range(number)]
    return {"project_id": "p", "key": "k", "schema": {"fields": each}}


LISTS = {
    "roles.list": ("after", 1000),
    "approvals.list": ("after", 200),
    "action_log.list": ("before", 1000),
    "projects.list": ("after", 1000),
    "record_types.list": ("after", 1000),
    "changes.list": ("after", 1000),
    "changes.list_targets": ("after", 1000),
    "changes.list_snapshots": ("after", 1000),
    "workflows.list": ("after", 1000),
    "workflows.list_definitions": ("after", 1000),
    "triggers.list": ("after", 1000),
    "workflow_assignments.list": ("after", 1000),
}
"""The paged lists, with the name of the cursor and the most rows of a page."""
NEEDED = {
    "record_types.list": {"project_id": "p"},
    "changes.list_targets": {"change_id": "c"},
    "changes.list_snapshots": {"change_id": "c"},
}


def listing(name: str, **more: Any) -> dict[str, Any]:
    return {**NEEDED.get(name, {}), **more}


ROWS: dict[str, Limit] = {
    "payload bytes": Limit("notes.about", 200_000, lambda n: padded({"resource": "r"}, "pad", n)),
    "payload depth": Limit("notes.about", 20, lambda n: {"resource": "r", "x": nested(n - 1)}),
    "idempotency key": Limit("notes.insert", 40, lambda n: str(uuid4()), lambda n: {"idempotency_key": text(n)}),
    "actor id": Limit(
        "notes.insert", MAX_ACTOR_ID_LENGTH, lambda n: str(uuid4()), lambda n: {"actor": Actor.human(text(n))}
    ),
    "resource of an action": Limit("notes.about", MAX_SUBJECT_LENGTH, lambda n: {"resource": text(n)}),
    "resource of a question": Limit("notes.ask", MAX_SUBJECT_LENGTH, lambda n: {"resource": text(n)}),
    "permission": Limit("notes.ask", MAX_PERMISSION_LENGTH, lambda n: {"permission": text(n)}),
    "collection": Limit("notes.open", MAX_ID_LENGTH, text),
    "document id": Limit("notes.insert", MAX_ID_LENGTH, text),
    "event payload": Limit("notes.emit", 3000, lambda n: {"payload": text(n - 2)}, error=ErrorCode.INTERNAL),
    "event subject": Limit("notes.emit", MAX_SUBJECT_LENGTH, lambda n: {"subject": text(n)}, error=ErrorCode.INTERNAL),
    "event type": Limit("notes.emit", MAX_NAME_LENGTH, lambda n: {"type": text(n)}, error=ErrorCode.INTERNAL),
    "role name": Limit("roles.define", roles.MAX_ROLE_NAME_LENGTH, lambda n: {"name": text(n)}),
    "role description": Limit("roles.define", 10_000, lambda n: {"name": "r", "description": text(n)}),
    "rules of a role": Limit("roles.define", roles.MAX_RULES, rules),
    "permission of a rule": Limit("roles.define", MAX_PERMISSION_LENGTH, lambda n: one_rule(permission=text(n))),
    "resource of a rule": Limit(
        "roles.define", MAX_SUBJECT_LENGTH, lambda n: one_rule(permission="p", resource=text(n))
    ),
    "name of a role to assign": Limit("roles.assign", roles.MAX_ROLE_NAME_LENGTH, lambda n: assign(role=text(n))),
    "actor of a role": Limit("roles.assign", MAX_ACTOR_ID_LENGTH, lambda n: assign(actor_id=text(n))),
    "comment of an approval": Limit("approvals.reject", 2000, lambda n: {"approval_id": "a", "comment": text(n)}),
    "actor of the log": Limit("action_log.list", MAX_ACTOR_ID_LENGTH, lambda n: {"actor_id": text(n)}),
    "action of the log": Limit("action_log.list", MAX_ACTION_NAME_LENGTH, lambda n: {"action": text(n)}),
    "key of a record type": Limit("record_types.create", 100, lambda n: {"project_id": "p", "key": text(n)}),
    "fields": Limit("record_types.create", MAX_FIELDS, fields),
    "name of a project": Limit("projects.create", 200, lambda n: {"name": text(n)}),
    "description": Limit("projects.create", 10_000, lambda n: {"name": str(uuid4()), "description": text(n)}),
    "title of a change": Limit("changes.create", 200, lambda n: {"project_id": "p", "title": text(n)}),
    "key of a workflow": Limit("workflows.define", 100, lambda n: {"key": text(n), "definition": definition()}),
    "steps": Limit("workflows.define", MAX_STEPS, lambda n: {"key": "w", "definition": definition(n)}),
    "trigger": Limit("triggers.create", MAX_TRIGGER_BYTES, trigger),
    "text of a search": Limit("action_log.list", MAX_SEARCH_LENGTH, lambda n: {"text": text(n)}),
    "words of a search": Limit("action_log.list", MAX_SEARCH_WORDS, lambda n: {"text": " ".join(map(str, range(n)))}),
    "reason to cancel": Limit("workflows.cancel", 2000, lambda n: {"run_id": "r", "reason": text(n)}),
    **{
        f"page of {name}": Limit(name, most, lambda n, name=name: listing(name, limit=n))  # type: ignore[misc]
        for name, (_, most) in LISTS.items()
    },
    **{
        f"cursor of {name}": Limit(name, MAX_ID_LENGTH, lambda n, name=name, at=at: listing(name, **{at: text(n)}))  # type: ignore[misc]
        for name, (at, _) in LISTS.items()
        # Its cursor is a UUID.
        if name != "action_log.list"
    },
}


@pytest.fixture(scope="module")
def office() -> Office:
    return Office()


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("row", ROWS)
def test_exactly_the_limit_is_accepted_and_one_more_is_refused(office: Office, row: str, mode: str) -> None:
    limit = ROWS[row]

    at_limit = office.ask(limit.action, limit.payload(limit.most), mode, **limit.request(limit.most))
    beyond = office.ask(limit.action, limit.payload(limit.most + 1), mode, **limit.request(limit.most + 1))

    assert isinstance(at_limit, Success) or at_limit.failure().code not in (limit.error, ErrorCode.INTERNAL)
    error = beyond.failure()
    assert error.code is limit.error
    assert f"{limit.most}" in error.message.replace(",", "").replace("16 KB", str(16 * 1024))
    assert len(error.message) < 1500


@pytest.fixture(scope="module")
def any_office(each_storage: AnyStorage) -> Office:
    return Office(each_storage)


CURSORS = ("0198c0de-0000-7000-8000-000000000000", "no id", "\x00", "\ud800", "x" * 255, "", "é/1")


@pytest.mark.parametrize("name", LISTS)
def test_a_cursor_of_another_listing_begins_a_page_or_is_refused(any_office: Office, name: str) -> None:
    at, _ = LISTS[name]
    for cursor in CURSORS:
        answer = any_office.ask(name, listing(name, **{at: cursor}))
        assert isinstance(answer, Success) or answer.failure().code in (ErrorCode.INVALID_INPUT, ErrorCode.NOT_FOUND), (
            cursor,
            answer,
        )


def test_a_foreign_cursor_of_a_storage_lists_or_is_refused(any_office: Office) -> None:
    storage, tenant = any_office.storage, any_office.tenant
    for cursor in CURSORS:
        _page_or_refusal(lambda cursor=cursor: storage.list_tenants(after=cursor, limit=10))  # type: ignore[misc]
        _page_or_refusal(lambda cursor=cursor: Relay(storage, nobody).dead_letters(after=cursor))  # type: ignore[misc]
        _page_or_refusal(lambda cursor=cursor: any_office.records(after=cursor))  # type: ignore[misc]
    for position in (10**6, 2**63 - 1, 2**63, 10**30):
        _page_or_refusal(lambda position=position: storage.read_events(tenant, after=position))  # type: ignore[misc]


def test_a_page_of_a_million_is_cut(any_office: Office) -> None:
    storage, tenant = any_office.storage, any_office.tenant
    million = 1_000_000

    assert len(storage.list_tenants(limit=million)) <= MAX_PAGE
    assert len(storage.read_events(tenant, limit=million)) <= MAX_PAGE
    assert len(any_office.records(limit=million)) <= MAX_PAGE
    assert len(Relay(storage, nobody).dead_letters(limit=million)) <= MAX_PAGE
    for limit in (0, -1):
        with pytest.raises(ActionError, match="at least 1"):
            Relay(storage, nobody).dead_letters(limit=limit)
    with pytest.raises(ConfigurationError, match="from 1 to 1000"):
        replay(storage, tenant, batch_size=million)


def _page_or_refusal(ask: Callable[[], Any]) -> None:
    try:
        found = ask()
    except ActionError as error:
        refusal: ActionError | None = error
    else:
        refusal = None
        assert len(found) <= 10
    assert refusal is None or refusal.code is ErrorCode.INVALID_INPUT


def test_a_tenant_has_a_short_slug_and_name(any_office: Office) -> None:
    storage = any_office.storage
    most = tenants.MAX_SLUG_LENGTH

    storage.create_tenant(slug="s" * most, name="n" * tenants.MAX_NAME_LENGTH)
    for slug, name in (("s" * (most + 1), "x"), ("x" * 100_000, "x"), ("fine", "n" * (tenants.MAX_NAME_LENGTH + 1))):
        with pytest.raises(ActionError) as refused:
            storage.create_tenant(slug=slug, name=name)
        assert refused.value.code is ErrorCode.INVALID_INPUT
        assert len(refused.value.message) < 200
    error = any_office.engine.resolve_tenant("x" * 100_000).failure()
    assert error.code is ErrorCode.NOT_FOUND
    assert len(error.message) < 200


def test_a_resource_name_of_100_kb_is_refused_and_kept_nowhere(any_office: Office) -> None:
    authorizer = any_office.authorizer
    before = authorizer.cached_bytes
    for action in ("notes.about", "notes.ask"):
        error = any_office.ask(action, {"resource": "x" * 100_000}, actor=Actor.human("ann")).failure()
        assert error.code is ErrorCode.INVALID_INPUT
        assert error.message == "the resource has 100000 characters; at most 500 are allowed"
    assert authorizer.cached_bytes - before < 10_000


def test_followers_of_a_rare_type_read_no_other_events(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "followers.db", pool_size=1, max_overflow=0) as storage:
        office = Office(storage)
        office.ask("notes.emit", {"type": "rare"}).unwrap()
        (first,) = storage.read_events(office.tenant, types=["rare"])

        def look() -> None:
            for _ in range(100):
                assert list(replay(storage, office.tenant, types=["rare"], after=first.position)) == []

        before = count(storage, office.tenant, look)["steps"]
        for _ in range(100):
            office.ask("notes.emit", {"type": "common"}).unwrap()

        assert count(storage, office.tenant, look)["steps"] <= 1.2 * before


def test_an_actor_has_a_number_of_roles(office: Office) -> None:
    document = {"roles": [f"r{index}" for index in range(roles.MAX_ASSIGNED_ROLES - 1)], "role_ids": {}}
    unit = office.storage.unit_of_work(office.tenant, str(uuid4()), "sync")
    run_sync(unit.records(ROLE_ASSIGNMENTS).insert(document, "human:many"))
    run_sync(unit.commit())
    for name in ("last", "one more"):
        office.ask("roles.define", {"name": name}).unwrap()

    assert isinstance(office.ask("roles.assign", assign(actor_id="many", role="last")), Success)
    error = office.ask("roles.assign", assign(actor_id="many", role="one more")).failure()

    assert error.code is ErrorCode.UNPROCESSABLE
    assert error.details == {"limit": roles.MAX_ASSIGNED_ROLES}


def test_a_change_has_a_number_of_targets_ops_and_fields(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    project = office.ask("projects.create", {"name": "Limits"}).unwrap()
    schema = {"fields": [{"name": "a", "type": "string"}]}
    for key in ("one", "two"):
        office.ask("record_types.create", {"project_id": project.id, "key": key, "schema": schema}).unwrap()
    change = office.ask("changes.create", {"project_id": project.id, "title": "x"}).unwrap()
    monkeypatch.setattr(drafts, "MAX_TARGETS", 1)
    monkeypatch.setattr(drafts, "MAX_OPS", 1)
    monkeypatch.setattr(transform, "MAX_FIELDS", 1)

    def target(key: str) -> Result[Any, ActionError]:
        wanted = {"change_id": change.id, "type": "record_type", "selector": {"record_type_key": key}}
        return office.ask("changes.add_target", wanted)

    def op(field: str) -> Result[Any, ActionError]:
        payload = {"record_type": "one", "field": field, "definition": {"type": "string"}}
        return office.ask("changes.add_patch_op", {"change_id": change.id, "op_type": "add_field", "payload": payload})

    assert isinstance(target("one"), Success)
    assert isinstance(op("b"), Success)
    for answer in (target("two"), op("c")):
        error = answer.failure()
        assert (error.code, error.details) == (ErrorCode.UNPROCESSABLE, {"limit": 1})
    error = office.ask("changes.preview", {"change_id": change.id}).failure()
    assert error.code is ErrorCode.UNPROCESSABLE
    assert "has 1 fields; at most 1 are allowed" in error.message


def test_a_default_event_too_large_says_how_much_is_left_out(office: Office) -> None:
    action = "notes.return"
    for length, expected in ((2900, False), (3000, True)):
        assert isinstance(office.ask(action, length), Success)
        payload = from_json(office.storage.read_events(office.tenant, types=[action])[-1].event.payload)
        assert (payload == {"input": None, "output": None, "omitted_bytes": length + 26}) is expected


def test_what_a_request_says_of_itself_is_cut() -> None:
    context = RequestContext(None, source=text(501), reason=text(10_001), request_id=text(501))

    assert (len(context.source), len(context.reason or ""), len(context.request_id or "")) == (500, 10_000, 500)


def _shown(number: int) -> str:
    """Return a number as the documentation writes it."""
    for unit, size in (("MiB", 1024**2), ("KiB", 1024)):
        if number >= 16 * 1024 and number % size == 0:
            return f"{number // size:,} {unit}"
    return f"{number:,}"


DEFAULTS = Limits()
CONSTANTS = {
    "a payload": DEFAULTS.payload_bytes,
    "containers in containers of a payload": DEFAULTS.payload_depth,
    "digits of an integer": MAX_JSON_DIGITS,
    "an idempotency key": DEFAULTS.key_length,
    "actions that execute actions": DEFAULTS.nested_depth,
    "the id of an actor": MAX_ACTOR_ID_LENGTH,
    "a resource, of an action": MAX_SUBJECT_LENGTH,
    "a permission": MAX_PERMISSION_LENGTH,
    "the reason": MAX_TEXT_LENGTH,
    "`service.action`": MAX_ACTION_NAME_LENGTH,
    "the slug of a tenant": tenants.MAX_SLUG_LENGTH,
    "the name of a tenant": tenants.MAX_NAME_LENGTH,
    "the name of a collection": MAX_ID_LENGTH,
    "the id of a document": MAX_ID_LENGTH,
    "containers in containers of a document": MAX_JSON_DEPTH,
    "the type of an event": MAX_NAME_LENGTH,
    "the subject of an event": MAX_SUBJECT_LENGTH,
    "the payload of an event": DEFAULTS.event_bytes,
    "the subjects of rows": MAX_FLUSHED_SUBJECTS,
    "questions to the authorizer": MAX_QUESTIONS,
    "an error on the action log": MAX_ERROR_BYTES,
    "a page of documents": MAX_PAGE,
    "a cursor": MAX_ID_LENGTH,
    "the JSON of a page": MAX_PAGE_BYTES,
    "rows of the log": MAX_EXAMINED,
    "the text of a search": MAX_SEARCH_LENGTH,
    "words of a reason": MAX_WORDS,
    "a tree of causes": MAX_NODES,
    "the name of a role": roles.MAX_ROLE_NAME_LENGTH,
    "the rules of a role": roles.MAX_RULES,
    "the roles of an actor": roles.MAX_ASSIGNED_ROLES,
    "the fields of a record type": MAX_FIELDS,
    "the choices of a field": MAX_CHOICES,
    "the targets of a change": drafts.MAX_TARGETS,
    "the ops of a change": drafts.MAX_OPS,
    "a file that an op edits": MAX_DIFF_BYTES,
    "schemas that a change": executor.MAX_SNAPSHOT_BYTES,
    "a workflow's definition": MAX_BYTES,
    "branches of a condition": conditions.MAX_CONDITION_DEPTH,
    "the input of a run": start.MAX_INPUT_BYTES,
    "the output of a step": run.MAX_OUTPUTS_BYTES,
    "what the references": MAX_RENDERED_BYTES,
    "runs that start runs": start.MAX_RUN_DEPTH,
    "a trigger": MAX_TRIGGER_BYTES,
    "event triggers": MAX_TRIGGERS,
    "a file that is read": MOST_FILE_BYTES,
    "the name of a consumer": MAX_CONSUMER_NAME_LENGTH,
    "the lag of a projection": MAX_COUNTED_LAG,
}
"""The expected text of each row of the documentation, by its beginning."""


@pytest.mark.parametrize("row", CONSTANTS)
def test_the_page_says_what_the_code_does(row: str) -> None:
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {row}"))

    assert _shown(CONSTANTS[row]) in line


UNBOUNDED = {
    "workflows.define.definition": "bounded in bytes",
    "workflows.activate.version": "one that is not there is not found",
    "workflows.get_definition.version": "one that is not there is not found",
    "workflows.start.input": "bounded in bytes",
    "triggers.create.trigger": "bounded in bytes",
    "workflow_assignments.complete.result": "by the payload",
    "record_types.create.schema.fields[]": "what is said of a field: by the payload, and its choices by their number",
    "changes.add_target.selector": "one name of a thousand characters",
    "changes.add_patch_op.payload": "as its op says",
    "action_log.list.subject": "it is cut, as the subjects in the log are",
}


def test_each_field_of_an_input_of_ours_has_a_bound(office: Office) -> None:
    found = set()
    for service, actions in office.engine._plans.items():
        # Only the library's own executor may execute the steps.
        if service in ("notes", "workflow_steps"):
            continue
        for name, plan in actions.items():
            schema = TypeAdapter(plan.action.validation).json_schema()
            found |= set(_unbounded(schema, schema.get("$defs", {}), f"{service}.{name}"))

    unknown = {each for each in found if not any(each.startswith(known) for known in UNBOUNDED)}

    assert unknown == set()


def _unbounded(schema: Any, defs: Mapping[str, Any], path: str) -> Iterator[str]:
    """Return the texts, lists and numbers of a JSON schema that have no limit."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    for each in schema.get("anyOf", ()):
        yield from _unbounded(each, defs, path)
    kind = schema.get("type")
    is_known = "enum" in schema or "const" in schema or schema.get("format") == "date-time"
    if kind == "string" and "maxLength" not in schema and not is_known:
        yield path
    if kind == "array":
        if "maxItems" not in schema:
            yield path
        yield from _unbounded(schema.get("items", {}), defs, f"{path}[]")
    if kind == "integer" and not {"maximum", "exclusiveMaximum"} & schema.keys():
        yield path
    if kind == "object":
        if schema.get("additionalProperties"):
            yield path
        for name, each in schema.get("properties", {}).items():
            yield from _unbounded(each, defs, f"{path}.{name}")
