"""`Tools`: the actions of an engine as tools of a language model, in the dialect of its provider."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from pydantic_core import from_json, to_json
from returns.result import Failure, Success

from actionengine.agents import results
from actionengine.agents.arguments import KEY, KEY_SCHEMA, Arguments
from actionengine.agents.dialects import DIALECTS
from actionengine.agents.dialects.compiler import WRAPPED, Compiled, TooLargeError, compile_input
from actionengine.agents.dialects.dialect import Definition, DialectName
from actionengine.agents.dialects.readers import Trail
from actionengine.agents.dialects.rules import Rules
from actionengine.agents.names import check_known, nearest_tool, tool_names
from actionengine.agents.output import result_schema
from actionengine.agents.results import ToolResult
from actionengine.agents.strictness import check_strict_tools
from actionengine.catalogue.descriptions import ActionDescription
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import RequestContext
from actionengine.engine import BlockingEngine, Engine
from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from actionengine.pipeline.plan import ActionPlan
from actionengine.text.names import shortened

logger = logging.getLogger("actionengine")

MIN_RESULT_BYTES = 1_000
_APPROVALS_GET = "approvals.get"
_APPROVAL_NOTES = {
    "always": "A person has to approve each call before it takes effect.",
    "depends": "A person may have to approve the call before it takes effect.",
}


class _Tool:
    __slots__ = ("action", "arguments", "definition", "is_wrapped", "name", "needs_key", "plan", "service", "short")

    def __init__(self, name: str, action: ActionDescription, plan: ActionPlan) -> None:
        self.name = name
        self.plan = plan
        self.action = action.name
        self.service, self.short = plan.service, plan.action.name
        self.needs_key = action.idempotency == "required"
        self.arguments: Arguments
        self.definition = b""
        self.is_wrapped: bool | None = None


EncodedResults = list[bytes]
ToolDefinitions = list[dict[str, Any]]
"""Definitions of tools, in the shape of their dialect."""


@final
class Tools:
    """The actions of an engine as tools of a language model.

    A tool is named `service__action`. `list` has the tools that an actor may use; `call` executes one through the
    whole pipeline. Threads and tasks may share the object.

    Args:
        engine: the engine; or `engine.blocking()`, for `list` and `call` without an event loop where handlers are
            `async def`.
        dialect: the shape and the rules of the definitions: `"mcp"`, `"openai"`, `"openai_strict"`, `"anthropic"` or
            `"gemini"`.
        services: the services whose actions are tools; all by default.
        aliases: other names of tools, by action: `{"payments.refund": "refund"}`.
        strict: the actions whose tools are strict, where the dialect chooses that for each tool (`"anthropic"`).
        max_result_bytes: the size of a result as JSON, at most. A larger one is cut, with a note.

    Raises:
        ConfigurationError: for an unknown dialect, service or alias; for a name of a tool that is illegal or not
            unique; and for a schema that exceeds the limits of the dialect.
    """

    def __init__(
        self,
        engine: Engine | BlockingEngine,
        dialect: DialectName,
        services: Iterable[str] | None = None,
        *,
        aliases: Mapping[str, str] | None = None,
        strict: Iterable[str] = (),
        max_result_bytes: int = 64 * 1024,
    ) -> None:
        if dialect not in DIALECTS:
            raise ConfigurationError(f"dialect is one of {', '.join(map(repr, DIALECTS))}, not {dialect!r}")
        if not isinstance(max_result_bytes, int) or max_result_bytes < MIN_RESULT_BYTES:
            raise ConfigurationError(
                f"max_result_bytes is a whole number of at least {MIN_RESULT_BYTES}, not {max_result_bytes!r}"
            )
        self._blocking = engine if isinstance(engine, BlockingEngine) else None
        self._engine = engine.engine if isinstance(engine, BlockingEngine) else engine
        self._dialect = DIALECTS[dialect]
        self._max_result_bytes = max_result_bytes
        described = self._engine.descriptions()
        if isinstance(services, str):
            raise ConfigurationError(f"services is a list of names, as in [{services!r}], not the text {services!r}")
        self._services = tuple(described) if services is None else tuple(dict.fromkeys(services))
        check_known(self._services, described, "services")
        actions = {action.name: action for service in self._services for action in described[service]}
        names = tool_names(actions, aliases or {}, self._dialect.tool_name)
        strict_actions = frozenset([strict] if isinstance(strict, str) else strict)
        self._check_strict(strict_actions, actions)
        self._by_action = {
            name: self._tool(names[name], action, name in strict_actions) for name, action in actions.items()
        }
        self._by_name = {tool.name: tool for tool in self._by_action.values()}
        check_strict_tools([from_json(self._by_action[name].definition) for name in strict_actions])

    def list(self, context: RequestContext) -> ToolDefinitions:
        """Return the definitions of the tools that the context's actor may use.

        They are new copies, in the order of the declarations. Raises `ActionError` where the authorizer cannot be
        asked, and for a context without a tenant.
        """
        if self._blocking is not None:
            return self._blocking.wait_for(self._list, context, "async")
        return run_sync(self._list(context, "sync"))

    async def list_async(self, context: RequestContext) -> ToolDefinitions:
        """Return what `list` returns, under an event loop."""
        return await self._list(context, "async")

    def call(self, name: str, arguments: Any, context: RequestContext) -> ToolResult:
        """Execute the action of a tool with the arguments that a model gave, and return the result for the model.

        Nothing that a model sends raises an exception. A tool that the actor may not use is unknown to it.
        """
        if self._blocking is not None:
            return self._blocking.wait_for(self._call, name, arguments, context, "async")
        return run_sync(self._call(name, arguments, context, "sync"))

    async def call_async(self, name: str, arguments: Any, context: RequestContext) -> ToolResult:
        """Do what `call` does, under an event loop. Handlers may be `async def` or `def`."""
        return await self._call(name, arguments, context, "async")

    def preview(self, name: str, arguments: Any, context: RequestContext) -> ToolResult:
        """Return what a call would do, without doing it, as `engine.preview` says it.

        The status is `previewed`. The structured result has `result`, `approval`, `writes`, `events`, and the `plan` to
        which `RequestContext(plan=…)` holds a later call.
        """
        if self._blocking is not None:
            return self._blocking.wait_for(self._preview, name, arguments, context, "async")
        return run_sync(self._preview(name, arguments, context, "sync"))

    async def preview_async(self, name: str, arguments: Any, context: RequestContext) -> ToolResult:
        """Return what `preview` returns, under an event loop."""
        return await self._preview(name, arguments, context, "async")

    def name_of(self, action: str) -> str | None:
        """Return the name of the tool of an action (`service.action`); None if it is not a tool here."""
        tool = self._by_action.get(action)
        return None if tool is None else tool.name

    def action_of(self, name: str) -> str | None:
        """Return the action (`service.action`) of a tool; None if there is no such tool."""
        tool = self._by_name.get(name)
        return None if tool is None else tool.action

    async def _list(self, context: RequestContext, mode: Mode) -> ToolDefinitions:
        return [from_json(tool.definition) for tool in await self._own(context, mode)]

    async def _own(self, context: RequestContext, mode: Mode) -> Sequence[_Tool]:
        """Return the tools of the context's actor."""
        if mode == "sync":
            found = self._engine.catalogue(context, self._services)
        else:
            found = await self._engine.catalogue_async(context, self._services)
        if isinstance(found, Failure):
            raise found.failure()
        return [self._by_action[action.name] for action in found.unwrap()]

    async def _call(self, name: str, arguments: Any, context: RequestContext, mode: Mode) -> ToolResult:
        tool = self._find(name, context)
        if tool is None:
            return await self._unknown(name, context, mode)
        payload, key, error = tool.arguments.read(arguments)
        if key is not None:
            context = replace(context, idempotency_key=key)
        elif tool.needs_key and context.idempotency_key is None:
            error = tool.arguments.without_key(error)
        if error is not None:
            return await self._refused(error, payload, tool, name, context, mode)
        encoded: EncodedResults = []
        answer = await self._engine.execute_plan(tool.plan, payload, context, mode, encoded)
        if isinstance(answer, Success):
            return self._shown(tool, results.succeeded, answer.unwrap(), encoded[0] if encoded else None)
        return await self._failed(answer.failure(), tool, name, tool.arguments.shown, context, mode)

    async def _preview(self, name: str, arguments: Any, context: RequestContext, mode: Mode) -> ToolResult:
        tool = self._find(name, context)
        if tool is None:
            return await self._unknown(name, context, mode)
        payload, _, error = tool.arguments.read(arguments)
        if error is not None:
            return await self._refused(error, payload, tool, name, context, mode)
        if mode == "sync":
            answer = self._engine.preview(tool.service, tool.short, payload, context)
        else:
            answer = await self._engine.preview_async(tool.service, tool.short, payload, context)
        if isinstance(answer, Success):
            return self._shown(tool, results.previewed, answer.unwrap())
        return await self._failed(answer.failure(), tool, name, tool.arguments.shown, context, mode)

    def _find(self, name: object, context: RequestContext) -> _Tool | None:
        tool = self._by_name.get(name) if isinstance(name, str) else None
        if tool is None:
            logger.warning(
                "there is no tool %r (tenant %s, actor %s)",
                shortened(name),
                getattr(context.tenant, "slug", None),
                shortened(context.actor),
            )
        return tool

    def _shown(self, tool: _Tool, show: Callable[..., ToolResult], *value: Any) -> ToolResult:
        try:
            return show(*value, tool.plan.result_names, tool.is_wrapped, self._max_result_bytes)
        except Exception as error:
            logger.error("%s returned a value that is not JSON: %r", tool.action, error)
            message = f"{tool.action} was executed, and its result cannot be shown: it is not JSON"
            return results.failed(ActionError(ErrorCode.INTERNAL, message), tool.name, tool.arguments.shown)

    async def _refused(
        self, error: ActionError, payload: Any, tool: _Tool, name: str, context: RequestContext, mode: Mode
    ) -> ToolResult:
        """Refuse a call for its arguments, unless the pipeline refuses it first."""
        answer = await self._engine.refuse(tool.service, tool.short, payload, error, context, mode)
        refusal = tool.arguments.complete(answer.failure(), payload, tool.plan)
        return await self._failed(refusal, tool, name, str, context, mode)

    async def _failed(
        self,
        error: ActionError,
        tool: _Tool,
        name: str,
        shown: Callable[[str], str],
        context: RequestContext,
        mode: Mode,
    ) -> ToolResult:
        code = error.code
        if code is ErrorCode.APPROVAL_REQUIRED:
            look_up = self._by_action.get(_APPROVALS_GET)
            is_there = look_up is not None and await self._may_use(look_up, context, mode)
            return results.pending(error, tool.action, look_up.name if look_up is not None and is_there else None)
        if code in (ErrorCode.FORBIDDEN, ErrorCode.UNAUTHENTICATED) and not await self._may_use(tool, context, mode):
            return await self._unknown(name, context, mode)
        return results.failed(error, tool.name, shown)

    async def _may_use(self, tool: _Tool, context: RequestContext, mode: Mode) -> bool:
        """Return whether a tool is on the list of the context's actor."""
        if mode == "sync":
            found = self._engine.can(context, tool.service, tool.short)
        else:
            found = await self._engine.can_async(context, tool.service, tool.short)
        return isinstance(found, Success) and found.unwrap().allowed

    async def _unknown(self, name: object, context: RequestContext, mode: Mode) -> ToolResult:
        """Return the result for a tool that the actor does not have, whether it exists for others or not."""
        try:
            own = await self._own(context, mode)
        except ActionError:
            own = []
        return results.unknown(name, nearest_tool(name, [tool.name for tool in own]))

    # Construction

    def _check_strict(self, strict: frozenset[str], actions: Iterable[str]) -> None:
        if strict and self._dialect.strict_rules is None:
            raise ConfigurationError(
                f"strict=[…] is for the dialect 'anthropic': tools of {self._dialect.name!r} are "
                f"{'all strict' if self._dialect.is_strict else 'never strict'}"
            )
        check_known(strict, actions, "strict")

    def _tool(self, name: str, action: ActionDescription, is_strict: bool) -> _Tool:
        tool = _Tool(name, action, self._engine.plan_of(*_parts(action.name)))
        rules = self._dialect.strict_rules if is_strict else None
        compiled = self._compiled(action, rules or self._dialect.rules)
        key = self._add_key(compiled) if tool.needs_key else None
        output, tool.is_wrapped = result_schema(action)
        tool.arguments = Arguments(action.name, compiled, key, self._engine.limits.payload_bytes)
        note = _APPROVAL_NOTES.get(action.approval)
        definition = Definition(
            name=name,
            text=f"{action.description}\n\n{note}" if note else action.description,
            action=action,
            input_schema=compiled.schema,
            output_schema=output,
            examples=() if tool.needs_key or compiled.renamed else tuple(_examples(action, compiled)),
            is_strict=is_strict or self._dialect.is_strict,
        )
        tool.definition = to_json(self._dialect.shape(definition))
        return tool

    def _compiled(self, action: ActionDescription, rules: Rules) -> Compiled:
        try:
            return compile_input(action.input_schema, rules)
        except TooLargeError as error:
            raise ConfigurationError(
                f"{action.name} cannot be a tool of the dialect {self._dialect.name!r}: {error}. Leave its service out "
                f"with services=[…], or use another dialect"
            ) from None

    def _add_key(self, compiled: Compiled) -> str:
        """Add the idempotency key to the arguments, and return the name of its property."""
        name, schema = KEY, compiled.schema
        while name in schema.get("properties", {}):
            name = f"{name}_"
        schema["properties"] = {**schema.get("properties", {}), name: dict(KEY_SCHEMA)}
        if not self._dialect.has_meta:
            schema["required"] = [*schema.get("required", ()), name]
        return name


def _parts(name: str) -> tuple[str, str]:
    service, _, action = name.rpartition(".")
    return service, action


def _examples(action: ActionDescription, compiled: Compiled) -> Iterator[dict[str, Any]]:
    """Yield the examples of an action as arguments, if the schema admits them."""
    for payload in action.examples:
        arguments = {WRAPPED: payload} if compiled.is_wrapped else payload
        trail = Trail()
        compiled.reader(arguments, trail)
        if isinstance(arguments, dict) and not trail.problems:
            yield arguments
