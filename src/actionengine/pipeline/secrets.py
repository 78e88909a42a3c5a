"""The secrets of one execution, masked in all that leaves it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import from_json

from actionengine.errors import ActionError
from actionengine.masking.masking import (
    forms_of,
    masked_by_name,
    masked_json,
    scrub,
    scrub_json,
    scrub_text,
    secrets_in,
)
from actionengine.masking.secret_types import NOTHING, Everything, searchable_json, typed_secrets
from actionengine.pipeline.payload import Payload
from actionengine.pipeline.plan import ActionPlan
from actionengine.storage.rows import EventRow, LogRow


class Secrets:
    """The secrets of one execution. A nested execution shares the values of its root, and adds its names to those of
    the executions around it."""

    __slots__ = ("_names", "_parent", "_plan", "has_names", "values")

    def __init__(self, plan: ActionPlan, parent: Secrets | None = None) -> None:
        self._plan = plan
        self._parent = parent
        self._names: frozenset[str] | None = None
        self.values: set[str] = set() if parent is None else parent.values
        """Every form in which a text may repeat a secret."""
        has_secrets = plan.has_secrets
        self.has_names: bool = (plan.find_secrets() if has_secrets is None else has_secrets) or (
            parent is not None and parent.has_names
        )
        """True if this action, or one around it, declares a name secret."""

    @property
    def names(self) -> frozenset[str]:
        """The names under which this action, or one around it, has secrets. Values passed on keep these names."""
        if self._names is None:
            names = self._plan.names
            self._names = names if self._parent is None else names | self._parent.names
        return self._names

    def learn(self, secrets: Iterable[str]) -> None:
        """Remember secrets, in every form in which a text may repeat them."""
        for secret in secrets:
            self.values.update(forms_of(secret))

    def learn_named(self, encoded: bytes) -> None:
        """Remember each value under a sensitive name in this JSON."""
        self.learn(secrets_in(from_json(encoded), _together(self._plan.sensitive, self.names)))

    def learn_input(self, received: Payload) -> None:
        """Remember the secrets of a payload."""
        if received.secrets:
            self.learn(received.secrets)
        if self.has_names:
            self.learn_named(received.json)

    def learn_validated(self, data: Any) -> None:
        """Remember the secrets of a validated input."""
        self.learn_named(searchable_json(data))
        self.learn(typed_secrets(data, self._plan.model).values)

    def learn_result(self, value: Any) -> None:
        """Remember the secrets in a handler's result that its annotation names."""
        encoded = searchable_json(value)
        self.learn(secrets_in(from_json(encoded), self._plan.result_names))
        self.learn(typed_secrets(value, self._plan.result_type).values)

    def mask(self, encoded: bytes, *names: frozenset[str]) -> bytes:
        """Return JSON, already masked by its types, without the values under the names of this action or under these.
        Remember those values, to mask them everywhere else.

        Each row, event, hook log and approval passes here, or is made of JSON that did.
        """
        every = _together(self.names, *names) if self.has_names else _together(*names)
        return masked_by_name(encoded, every, self.learn) if every else encoded

    def mask_input(self, received: Payload) -> bytes:
        """Return a payload as the action log shows it."""
        return self.mask(received.masked or received.json, self._plan.sensitive)

    def mask_result(self, encoded: bytes, value: Any) -> bytes:
        """Return a result's JSON, already masked by its types, as the action log shows it."""
        masked = self.mask(encoded, self._plan.result_names)
        if isinstance(self._plan.result_names, Everything):
            self.learn_result(value)
        return masked

    def to_log_json(self, value: Any, *names: frozenset[str]) -> Any:
        """Return a value as a hook log shows it: plain JSON, without values that are secret by type or under these
        names."""
        shown = from_json(self.mask(masked_json(value, self.learn), *names))
        return scrub(shown, self.values) if self.values else shown

    def are_in(self, text: str) -> bool:
        """Return whether a text contains one of the secrets known so far."""
        return bool(self.values) and scrub_text(text, self.values) != text

    def scrub_text(self, text: str) -> str:
        """Return a text without the secrets."""
        return scrub_text(text, self.values) if self.values else text

    def scrub_json(self, encoded: bytes) -> bytes:
        """Return JSON without the secrets."""
        return scrub_json(encoded, self.values) if self.values else encoded

    def scrub_error(self, error: ActionError) -> ActionError:
        """Return an error without the secrets."""
        details = self._masked_details(error) if error.details else {}
        if not self.values and not self.has_names:
            return error
        return ActionError(error.code, scrub_text(error.message, self.values), scrub(details, self.values))

    def scrub_events(self, events: Sequence[EventRow]) -> Sequence[EventRow]:
        """Return events without the secrets."""
        if not self.values:
            return events
        return [
            event._replace(
                type=self.scrub_text(event.type),
                subject=event.subject and self.scrub_text(event.subject),
                payload=self.scrub_json(event.payload),
            )
            for event in events
        ]

    def scrub_rows(self, rows: Sequence[LogRow]) -> Sequence[LogRow]:
        """Return rows of the log without the secrets."""
        if not self.values:
            return rows
        return [
            row._replace(
                input=row.input and self.scrub_json(row.input),
                output=row.output and self.scrub_json(row.output),
                error=row.error and self.scrub_json(row.error),
                decision=row.decision and self.scrub_text(row.decision),
                subjects=tuple(self.scrub_text(subject) for subject in row.subjects),
                reason=row.reason and self.scrub_text(row.reason),
            )
            for row in rows
        ]

    def _masked_details(self, error: ActionError) -> Any:
        """Return the details as plain JSON, masked. Remember the secrets that they name."""
        try:
            return from_json(self.mask(masked_json(dict(error.details), self.learn, str)))
        except Exception:
            # JSON cannot carry the value: its type is shown.
            return error.to_dict()["details"]


def _together(*names: frozenset[str]) -> frozenset[str]:
    """Return all these names as one set, so that a value is walked through once."""
    return next((each for each in names if isinstance(each, Everything)), None) or NOTHING.union(*names)
