"""CloudEvents 1.0: the form of events in other systems, both ways.

Besides the attributes of the specification an event has these extensions, all of them texts: `tenant` (UUID),
`actortype`, `actor` (an id), `onbehalfof` (for an actor that acts for others: a JSON array of these principals, the
nearest first), `action`, `actionid`, `sequence` (the position with leading zeros, so that the order of the texts is
that of the events, as the specification's own extension `sequence` requires) and `dataversion` (of the payload's
schema).

The specification forbids empty texts in attributes, and control characters, half surrogates and non-characters. A value
with any of these is percent-encoded (UTF-8), and one more extension, `percentencoded`, lists the names of these
attributes, with commas; a listed attribute that is missing is the empty text. So nothing is lost, and ordinary events
look ordinary.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import quote, unquote
from uuid import UUID

from pydantic_core import from_json, to_json

from actionengine.errors import ConfigurationError
from actionengine.events.event import Event

STRUCTURED = "application/cloudevents+json"
JSON = "application/json"
HTTP_PREFIX = "ce-"
KAFKA_PREFIX = "ce_"
AMQP_PREFIX = "cloudEvents_"

_DIGITS = 19
_MARK = "percentencoded"
_PREFIXES = (HTTP_PREFIX, KAFKA_PREFIX, AMQP_PREFIX.lower(), "cloudevents:")
_NON_CHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
_forbidden = re.compile(f"[\0-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NON_CHARACTERS}]").search
_SAFE = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")
_is_plain = re.compile("[!#$&-~]*").fullmatch
_is_source = re.compile("[!-~]+").fullmatch
_is_number = re.compile("[0-9]{1,19}").fullmatch
_skip_space = re.compile("[ \t\n\r]*").match


def to_structured(event: Event, source: str = "actionengine") -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of an event as one JSON document, with its payload.

    `source` is a URI reference. Raises `ValueError` for an event without an id or a type.
    """
    attributes = to_json(_attributes(event, source))
    return {"content-type": STRUCTURED}, b'%b,"data":%b}' % (attributes[:-1], event.data or b"null")


def to_binary(event: Event, source: str = "actionengine", prefix: str = HTTP_PREFIX) -> tuple[dict[str, str], bytes]:
    """Return the headers of an event, one for each attribute, and its body, the payload.

    `prefix` begins the headers' names: `ce-` (HTTP, NATS), `ce_` (Kafka) or `cloudEvents_` (AMQP). With `ce-`, values
    are percent-encoded, as the HTTP binding requires; with the others they are plain texts. Raises `ValueError` for an
    event without an id or a type.
    """
    attributes = _attributes(event, source)
    headers = {"content-type": attributes.pop("datacontenttype")}
    if prefix != HTTP_PREFIX:
        headers.update((prefix + name, value) for name, value in attributes.items())
        return headers, event.data
    for name, value in attributes.items():
        headers[HTTP_PREFIX + name] = value if _is_plain(value) else quote(value, _SAFE)
    return headers, event.data


def from_cloudevent(headers: Mapping[str, str | bytes], body: str | bytes) -> Event:
    """Return the event of a message in either mode; the case of the headers' names does not matter.

    Without a content type and without attributes in the headers, the body is read as a structured event, so that the
    `detail` of EventBridge can be read too. Raises `ValueError` with the reason for a message that is no event of this
    library.
    """
    lowered = {name.lower(): _text(value) for name, value in headers.items()}
    content = body.encode() if isinstance(body, str) else bytes(body)
    media_type = lowered.get("content-type", "").partition(";")[0].strip().lower()
    prefix = next((prefix for prefix in _PREFIXES if prefix + "specversion" in lowered), None)
    if media_type == STRUCTURED or (prefix is None and not media_type):
        return _event(*_read_structured(content))
    if prefix is None or media_type.startswith("application/cloudevents"):
        _refuse(f"its content type is {media_type!r}, and no header begins with ce-, ce_ or cloudEvents_")
    if media_type not in ("", JSON) and not media_type.endswith("+json"):
        _refuse(f"its payload must be JSON, not {media_type!r}")
    return _event(_read_headers(lowered, prefix), _validate_json(content))


def validate_source(source: str) -> str:
    """Return the source of a configuration. Raise `ConfigurationError` for one that is no URI reference."""
    if not isinstance(source, str) or not _is_source(source):
        raise ConfigurationError(f"source must be a URI reference such as 'https://example.com/orders', not {source!r}")
    return source


def _attributes(event: Event, source: str) -> dict[str, str]:
    if not event.id or not event.type:
        _refuse(f"an event needs an id and a type, not {event.id!r} and {event.type!r}")
    found = {
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": event.type,
        "time": _rfc3339(event.occurred_at),
        "datacontenttype": JSON,
        "tenant": str(event.tenant_id),
        "action": event.action,
        "actionid": event.action_id,
        "sequence": f"{event.position:0{_DIGITS}d}",
        "dataversion": str(event.version),
    }
    if event.subject is not None:
        found["subject"] = event.subject
    if event.actor_type is not None:
        found["actortype"] = event.actor_type
    if event.actor_id is not None:
        found["actor"] = event.actor_id
    if event.on_behalf_of:
        found["onbehalfof"] = json.dumps(event.on_behalf_of)
    unfit = [name for name, value in found.items() if not value or (not value.isprintable() and _forbidden(value))]
    for name in unfit:
        value = found.pop(name)
        if value:
            found[name] = quote(value, _SAFE, errors="surrogatepass")
    if unfit:
        found[_MARK] = ",".join(unfit)
    return found


def _rfc3339(time: datetime) -> str:
    utc = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return utc.isoformat().removesuffix("+00:00") + "Z"


def _event(attributes: Mapping[str, str], data: bytes) -> Event:
    if attributes.get("specversion") != "1.0":
        _refuse(f"its specversion is {attributes.get('specversion')!r}, not '1.0'")
    found = dict(attributes)
    for name in found.pop(_MARK, "").split(","):
        if name:
            found[name] = unquote(found.get(name, ""), errors="surrogatepass")
    needed = ("id", "type", "time", "tenant", "action", "actionid", "sequence")
    missing = [name for name in needed if name not in found]
    if missing:
        _refuse(f"it lacks {', '.join(missing)}, and actionengine's events have them")
    return Event(
        id=found["id"],
        position=_number(found, "sequence"),
        type=found["type"],
        subject=found.get("subject"),
        version=_number(found, "dataversion") if "dataversion" in found else 1,
        data=data,
        tenant_id=_tenant(found["tenant"]),
        actor_type=found.get("actortype"),
        actor_id=found.get("actor"),
        action=found["action"],
        action_id=found["actionid"],
        occurred_at=_time(found["time"]),
        on_behalf_of=_principals(found["onbehalfof"]) if "onbehalfof" in found else (),
    )


def _read_headers(headers: Mapping[str, str], prefix: str) -> dict[str, str]:
    found = {name[len(prefix) :]: value for name, value in headers.items() if name.startswith(prefix)}
    if prefix != HTTP_PREFIX:
        return found
    try:
        return {name: unquote(value, errors="strict") if "%" in value else value for name, value in found.items()}
    except UnicodeDecodeError as error:
        _refuse(f"a header is not percent-encoded UTF-8: {error}")


def _read_structured(body: bytes) -> tuple[dict[str, str], bytes]:
    members = _members(body)
    if "data" in members and "data_base64" in members:
        _refuse("it has both data and data_base64")
    attributes: dict[str, str] = {}
    for name, (value, _) in members.items():
        if isinstance(value, str):
            attributes[name] = value
        elif type(value) is int:
            attributes[name] = str(value)
    if "data" in members:
        return attributes, members["data"][1].encode()
    try:
        return attributes, _validate_json(b64decode(attributes.pop("data_base64", ""), validate=True))
    except ValueError as error:
        _refuse(f"its data_base64 cannot be read: {error}")


def _members(body: bytes) -> dict[str, tuple[Any, str]]:
    """Return the members of a JSON object, each as its value and as its text, so that the payload stays as it was."""
    try:
        text = body.decode()
        at = _expect(text, 0, "{")
        found: dict[str, tuple[Any, str]] = {}
        while True:
            name, end = _decoder.raw_decode(text, at)
            if not isinstance(name, str):
                _refuse("its body is no JSON object")
            start = _expect(text, end, ":")
            value, end = _decoder.raw_decode(text, start)
            found[name] = value, text[start:end]
            after = _after_space(text, end)
            if text[after : after + 1] == "}":
                break
            at = _expect(text, after, ",")
        if _after_space(text, after + 1) != len(text):
            _refuse("something follows its JSON object")
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        _refuse(f"its body is no JSON object: {type(error).__name__}: {error}")
    return found


def _expect(text: str, at: int, character: str) -> int:
    found = _after_space(text, at)
    if text[found : found + 1] != character:
        _refuse(f"its body is no JSON object: {character!r} expected at character {found}")
    return _after_space(text, found + 1)


def _after_space(text: str, at: int) -> int:
    space = _skip_space(text, at)
    return space.end() if space else at


def _validate_json(content: bytes) -> bytes:
    if not content:
        return b"null"
    try:
        from_json(content, allow_inf_nan=False)
    except ValueError as error:
        _refuse(f"its payload is not JSON: {error}")
    return content


def _text(value: str | bytes) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        return bytes(value).decode("latin-1")


def _number(attributes: Mapping[str, str], name: str) -> int:
    if not _is_number(attributes[name]):
        _refuse(f"its {name} must be a number, not {attributes[name]!r}")
    return int(attributes[name])


def _principals(text: str) -> tuple[str, ...]:
    try:
        principals = json.loads(text)
    except (ValueError, RecursionError):
        principals = None
    if not isinstance(principals, list) or not all(isinstance(each, str) for each in principals):
        _refuse(f"its onbehalfof must be a JSON array of texts, not {text!r}")
    return tuple(principals)


def _tenant(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        _refuse(f"its tenant must be a UUID, not {text!r}")


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text.upper())
        if time.tzinfo is None:
            _refuse(f"its time must have an offset from UTC, not {text!r}")
        return time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        _refuse(f"its time is {text!r}: {error}")


def _no_constant(name: str) -> NoReturn:
    _refuse(f"its body is no JSON: it has {name}")


def _refuse(reason: str) -> NoReturn:
    raise ValueError(f"no CloudEvent of actionengine: {reason}")


_decoder = json.JSONDecoder(parse_constant=_no_constant)
