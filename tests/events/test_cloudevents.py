"""CloudEvents: messages that the SDK reads, that come back as events, and that are refused."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from cloudevents.core.bindings import amqp, http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic_core import to_json

from actionengine import ConfigurationError
from actionengine.events.event import Event
from actionengine.events.publishers.cloudevents import from_cloudevent, to_binary, to_structured, validate_source
from tests.events.samples import EVENT

Message = tuple[dict[str, str], bytes]

NASTY = [
    "\n",
    "\0",
    "\x7f",
    "\x85",
    '"%',
    "%0A",
    " a ",
    "a,b",
    "\ud800",
    "\ufdd0",
    "\ufffe",
    "\U0010ffff",
    "é",
    "日本",
    "🎉",
    "",
]

texts = st.one_of(st.text(), st.text(st.characters(codec=None)), st.sampled_from(NASTY))
names = texts.filter(bool)
optional = st.none() | texts
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
events = st.builds(
    Event,
    id=st.uuids().map(str),
    position=st.integers(0, 2**63 - 1),
    type=names,
    subject=optional,
    version=st.integers(1, 9999),
    data=st.one_of(json_values.map(to_json), json_values.map(lambda value: json.dumps(value, indent=1).encode())),
    tenant_id=st.uuids(),
    actor_type=st.none() | st.sampled_from(["human", "ai", "system"]),
    actor_id=optional,
    action=names,
    action_id=st.uuids().map(str),
    occurred_at=st.datetimes(timezones=st.just(UTC)),
    on_behalf_of=st.lists(texts, max_size=3).map(tuple),
)


def read_structured(event: Event) -> CloudEvent:
    headers, body = to_structured(event)
    return CloudEvent(*parts(http.from_structured(http.HTTPMessage(headers, body), JSONFormat(), CloudEvent)))


def read_ce(event: Event) -> CloudEvent:
    headers, body = to_binary(event)
    assert all(value.isascii() and value.isprintable() and " " not in value for value in headers.values())
    return CloudEvent(*parts(http.from_binary(http.HTTPMessage(headers, body), JSONFormat(), CloudEvent)))


def read_kafka(event: Event) -> CloudEvent:
    headers, body = to_binary(event, prefix="ce_")
    message = kafka.KafkaMessage({name: value.encode() for name, value in headers.items()}, None, body)
    return CloudEvent(*parts(kafka.from_binary(message, JSONFormat(), CloudEvent)))


def read_amqp(event: Event) -> CloudEvent:
    headers, body = to_binary(event, prefix="cloudEvents_")
    properties = {"content-type": headers.pop("content-type")}
    message = amqp.AMQPMessage(properties, dict(headers), body)
    return CloudEvent(*parts(amqp.from_binary(message, JSONFormat(), CloudEvent)))


def parts(read: Any) -> tuple[dict[str, Any], Any]:
    return read.get_attributes(), read.get_data()


def assert_valid_texts(read: CloudEvent) -> None:
    for name, value in read.get_attributes().items():
        assert set(name) <= set(string.ascii_lowercase + string.digits)
        assert len(name) <= 20
        if isinstance(value, str):
            assert value
            assert not any(is_forbidden(ord(character)) for character in value)


def is_forbidden(code: int) -> bool:
    return (
        code <= 0x1F
        or 0x7F <= code <= 0x9F
        or 0xD800 <= code <= 0xDFFF
        or 0xFDD0 <= code <= 0xFDEF
        or code & 0xFFFE == 0xFFFE
    )


readers = pytest.mark.parametrize("read", [read_structured, read_ce])
modes = pytest.mark.parametrize(
    "write",
    [
        to_structured,
        to_binary,
        lambda event: to_binary(event, prefix="ce_"),
        lambda event: to_binary(event, prefix="cloudEvents_"),
    ],
    ids=["structured", "ce-", "ce_", "cloudEvents_"],
)


@pytest.mark.parametrize("read", [read_structured, read_ce, read_kafka, read_amqp])
def test_the_sdk_reads_every_attribute(read: Callable[[Event], CloudEvent]) -> None:
    found = read(EVENT._replace(on_behalf_of=("ai:lead", "human:carla")))

    assert found.get_attributes() == {
        "specversion": "1.0",
        "id": EVENT.id,
        "source": "actionengine",
        "type": "job.booked",
        "subject": "job/17",
        "time": EVENT.occurred_at,
        "datacontenttype": "application/json",
        "tenant": str(EVENT.tenant_id),
        "actortype": "human",
        "actor": "ann",
        "onbehalfof": '["ai:lead", "human:carla"]',
        "action": "jobs.book",
        "actionid": EVENT.action_id,
        "sequence": "0000000000000000042",
        "dataversion": "2",
    }
    assert found.get_data() == {"day": "2026-11-21", "price": 12.5, "note": "café"}


@readers
@given(event=events)
def test_the_sdk_finds_any_event_valid_and_reads_the_same(read: Callable[[Event], CloudEvent], event: Event) -> None:
    found = read(event)

    assert_valid_texts(found)
    assert found.get_id() == event.id
    assert found.get_time() == event.occurred_at
    assert found.get_extension("tenant") == str(event.tenant_id)
    assert found.get_data() == json.loads(event.data)
    encoded = str(found.get_extension("percentencoded") or "").split(",")
    for name, value in {"type": event.type, "subject": event.subject, "actor": event.actor_id}.items():
        assert name in encoded or found.get_attributes().get(name) == value


@modes
@given(event=events)
@example(event=EVENT._replace(subject=None, actor_id=None, actor_type=None))
@example(event=EVENT._replace(subject="", type="%"))
@example(event=EVENT._replace(subject="100%25\n"))
def test_an_event_comes_back_as_it_was_byte_for_byte(write: Callable[[Event], Message], event: Event) -> None:
    assert from_cloudevent(*write(event)) == event


def test_the_payload_is_embedded_as_it_is() -> None:
    event = EVENT._replace(data=b'{"a": 1.50, "b":[1e2 , 9007199254740993]}')

    assert to_structured(event)[1].endswith(b',"data":{"a": 1.50, "b":[1e2 , 9007199254740993]}}')
    assert to_binary(event)[1] is event.data


def test_header_names_are_read_in_any_case_and_kafka_gives_bytes() -> None:
    headers, body = to_binary(EVENT)
    shouted = {name.upper(): value for name, value in headers.items()}
    as_bytes = {name: value.encode() for name, value in to_binary(EVENT, prefix="ce_")[0].items()}

    assert from_cloudevent(shouted, body) == EVENT
    assert from_cloudevent(as_bytes, body) == EVENT


def test_a_structured_event_needs_no_headers() -> None:
    assert from_cloudevent({}, to_structured(EVENT)[1].decode()) == EVENT


def test_what_another_producer_writes_is_read_too() -> None:
    attributes = json.loads(to_structured(EVENT)[1])
    attributes |= {"sequence": 42, "dataversion": 2, "time": "2026-11-21T12:30:00.123456+02:00", "foreign": True}
    document = json.dumps({"data": attributes.pop("data"), **attributes, "dataschema": None}, indent=2)

    found = from_cloudevent({"Content-Type": "application/cloudevents+json; charset=UTF-8"}, f" {document}\n")

    assert found.payload == EVENT.payload
    assert found._replace(data=EVENT.data) == EVENT


def test_data_in_base64_is_read_too() -> None:
    attributes = json.loads(to_structured(EVENT)[1])
    del attributes["data"]

    assert from_cloudevent({}, json.dumps(attributes | {"data_base64": "eyJhIjoxfQ=="})).data == b'{"a":1}'
    assert from_cloudevent({}, json.dumps(attributes)).payload is None


def test_times_are_told_in_utc() -> None:
    event = EVENT._replace(occurred_at=datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))))

    assert json.loads(to_structured(event)[1])["time"] == "2025-12-31T23:00:00Z"


def test_an_event_without_a_type_is_none() -> None:
    with pytest.raises(ValueError, match="needs an id and a type"):
        to_structured(EVENT._replace(type=""))


def changed(**changes: Any) -> bytes:
    attributes = json.loads(to_structured(EVENT)[1]) | changes
    return json.dumps({name: value for name, value in attributes.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        ({}, b"", "no JSON object"),
        ({}, b"[]", "no JSON object"),
        ({}, b"{}", "no JSON object"),
        ({}, b'{"a"}', "no JSON object"),
        ({}, b"{1:2}", "no JSON object"),
        ({}, b'{"a":1} x', "something follows"),
        ({}, b'{"a":NaN}', "NaN"),
        ({}, b'{"a":"\xff"}', "no JSON object"),
        ({}, b"[" * 100_000, "no JSON object"),
        ({}, b'{"a":' + b"[" * 100_000, "no JSON object"),
        ({"content-type": "text/plain"}, b"hello", "'text/plain'"),
        ({"content-type": "application/json"}, b"{}", "no header begins with"),
        ({"content-type": "application/cloudevents-batch+json"}, b"[]", "cloudevents-batch"),
        ({}, changed(specversion="0.3"), "specversion is '0.3'"),
        ({}, changed(tenant=...), "lacks tenant"),
        ({}, changed(tenant="acme"), "tenant must be a UUID, not 'acme'"),
        ({}, changed(sequence="-1"), "sequence must be a number, not '-1'"),
        ({}, changed(sequence="٣"), "sequence"),
        ({}, changed(onbehalfof="human:carla"), "onbehalfof must be a JSON array of texts, not 'human:carla'"),
        ({}, changed(onbehalfof="[1]"), "onbehalfof must be a JSON array"),
        ({}, changed(onbehalfof="[" * 100_000), "onbehalfof must be a JSON array"),
        ({}, changed(time="yesterday"), "time is 'yesterday'"),
        ({}, changed(time="2026-11-21T12:30:00"), "must have an offset"),
        ({}, changed(data_base64="e30="), "both data and data_base64"),
        ({}, changed(data=..., data_base64="?"), "data_base64 cannot be read"),
        (to_binary(EVENT)[0], b"{", "payload is not JSON"),
        (to_binary(EVENT)[0] | {"content-type": "image/png"}, b"{}", "image/png"),
        (to_binary(EVENT)[0] | {"ce-subject": "%FF"}, b"{}", "percent-encoded"),
    ],
)
def test_what_is_no_event_is_refused_with_the_reason(headers: dict[str, str], body: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match="no CloudEvent of actionengine: ") as caught:
        from_cloudevent(headers, body)

    assert reason in str(caught.value)


@given(headers=st.dictionaries(st.sampled_from(sorted(to_binary(EVENT)[0])), st.text() | st.binary()), body=st.binary())
def test_garbage_is_refused_and_nothing_else_happens(headers: dict[str, str | bytes], body: bytes) -> None:
    with pytest.raises(ValueError, match="no CloudEvent"):
        from_cloudevent({**headers, "ce-tenant": str(UUID(int=0))}, body)


@pytest.mark.parametrize("source", ["", "two words", "caf\xe9", None])
def test_a_source_that_is_no_uri_reference_is_a_mistake(source: Any) -> None:
    with pytest.raises(ConfigurationError, match="URI reference"):
        validate_source(source)
