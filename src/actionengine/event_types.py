"""Event types: the schema of an event's payload, its version, and the conversion of older versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from actionengine.context import MAX_NAME_LENGTH
from actionengine.errors import ConfigurationError, storable_text
from actionengine.masking.masking import Learn, masked_finite_json, masked_json_of

Upcaster = Callable[[Any], Any]

MAX_VERSION = 10_000
"""The version of the schema of an event's payload."""


@dataclass(frozen=True, slots=True)
class EventType:
    """A declared type of events. Made by `create_event_type`; named in the `emits` of actions."""

    type: str
    description: str
    payload: Any
    version: int
    upcasters: Mapping[int, Upcaster]
    _adapter: TypeAdapter[Any] | None

    def encode(self, payload: Any, learn: Learn | None = None) -> bytes:
        """Return a payload as JSON of this version, masked; pass its secrets to `learn`.

        Raises `ValidationError` for a payload that does not fit, and `ValueError` for one without a JSON form.
        """
        if self._adapter is None:
            return masked_finite_json(payload, learn)
        return masked_json_of(self._adapter, self._adapter.validate_python(payload), learn)

    def upcast(self, payload: Any, version: int) -> Any:
        """Convert a payload of an older version (JSON values) to the latest.

        Raises `EventVersionError` for a version later than this declaration, and where an upcaster fails.
        """
        if version > self.version:
            raise EventVersionError(
                f"{self.type} is known up to version {self.version}, and this event has version {version}: "
                f"bring this process up to date"
            )
        for step in range(version, self.version):
            try:
                payload = self.upcasters[step](payload)
            except Exception as error:
                raise EventVersionError(
                    f"the upcaster of {self.type} from version {step} raised {type(error).__name__}: {error}"
                ) from error
        return payload

    def read(self, payload: Any, version: int) -> Any:
        """Return a stored payload (JSON values) as an instance of the latest version's model. A masked secret is read
        as the mask.

        Raises `EventVersionError`, also for a payload that does not validate.
        """
        newest = self.upcast(payload, version)
        if self._adapter is None:
            return newest
        try:
            return self._adapter.validate_python(newest)
        except ValidationError as error:
            message = f"a payload of {self.type}, version {version}, does not fit: {field_problems(error)}"
            raise EventVersionError(message) from None


def field_problems(error: ValidationError) -> str:
    """Return where and why a payload does not fit, without its values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'payload'}: {item['type']}" for item in found)


class EventVersionError(Exception):
    """Raised for a stored event that cannot be read in the requested version."""


def create_event_type(
    *,
    type: str,
    payload: Any = None,
    version: int = 1,
    upcasters: Mapping[int, Upcaster] | None = None,
    description: str = "",
) -> EventType:
    """Declare a type of events.

    Args:
        type: the type's name, such as `"job.booked"`.
        payload: a Pydantic model class, or any type that a `TypeAdapter` takes; None lets any JSON pass.
        version: of the payload's schema; 1 or more. Raise it when old payloads do not fit the model any more.
        upcasters: for each older version, a function from its payload (JSON values) to that of the next one.
        description: a sentence for people and agents.

    Raises:
        ConfigurationError: for a mistake in the declaration, naming the type.
    """
    if not isinstance(type, str) or not 0 < len(type) <= MAX_NAME_LENGTH or storable_text(type) != type:
        raise ConfigurationError(
            f"an event type has a name of 1 to {MAX_NAME_LENGTH} characters that UTF-8 can carry, not {type!r}"
        )
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= MAX_VERSION:
        raise ConfigurationError(f"{type}: a version is a number from 1 to {MAX_VERSION}, not {version!r}")
    given = dict(upcasters or {})
    if set(given) != set(range(1, version)):
        raise ConfigurationError(
            f"{type}: version {version} needs an upcaster from each older version "
            f"({', '.join(map(str, range(1, version))) or 'none'}), not from {sorted(given, key=str)}"
        )
    for step, upcaster in given.items():
        if not callable(upcaster):
            raise ConfigurationError(f"{type}: the upcaster from version {step} must be callable, not {upcaster!r}")
    adapter: TypeAdapter[Any] | None = None
    if payload is not None:
        try:
            adapter = payload if isinstance(payload, TypeAdapter) else TypeAdapter(payload)
        except (PydanticUserError, TypeError, NameError) as error:
            raise ConfigurationError(f"{type}: {payload!r} cannot validate a payload: {error}") from None
    return EventType(type, description, payload, version, MappingProxyType(given), adapter)


def by_type(event_types: Iterable[EventType]) -> Mapping[str, EventType]:
    """Map declarations by the name of the type. Raises `ConfigurationError` where two of one name differ."""
    found: dict[str, EventType] = {}
    for declared in event_types:
        if not isinstance(declared, EventType):
            raise ConfigurationError(f"{declared!r} is not an event type: make it with create_event_type")
        if found.setdefault(declared.type, declared) != declared:
            raise ConfigurationError(
                f"the event type {declared.type!r} has two different declarations: import one in both places"
            )
    return MappingProxyType(found)
