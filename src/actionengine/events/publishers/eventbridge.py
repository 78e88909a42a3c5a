"""`EventBridgePublisher`: events to a bus of Amazon EventBridge, through boto3."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoRegionError, ParamValidationError  # type: ignore[import-untyped]

from actionengine.concurrency.backoff import delay, full_jitter
from actionengine.errors import ConfigurationError
from actionengine.events.event import Event
from actionengine.events.publishers.cloudevents import to_structured, validate_source
from actionengine.events.publishers.port import Failures, PublishError, PublisherUnavailable

MAX_ENTRIES = 10
"""Entries of one `PutEvents`."""
MAX_BYTES = 262_144
"""Bytes of one `PutEvents`, counted as AWS documents."""
MAX_DETAIL_TYPE_LENGTH = 128
_TIME_BYTES = 14

_TRANSIENT = frozenset(
    {
        "InternalException",
        "InternalFailure",
        "InternalServerError",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""Codes of an entry after which another attempt may succeed."""
_OUT_OF_ORDER = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "ResourceNotFoundException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""Codes of an entry that are about the bus or the credentials, not about the event."""
_HOPELESS = frozenset({"InvalidArgument", "MalformedDetail", "ValidationException"})
_REFUSED = frozenset({"ValidationException", "PayloadTooLargeException", "RequestEntityTooLarge", "413"})
"""Codes of a whole call that one of its entries has caused."""

_log = logging.getLogger("actionengine")


class _Entry(NamedTuple):
    id: str
    size: int
    fields: dict[str, Any]


class _Refused(Exception):
    """A call that was refused because of one of its entries."""


class EventBridgePublisher:
    """Publishes events to an event bus: the detail is the structured CloudEvent, the detail type the event's type.

    A call takes at most ten events. Only those that are throttled are tried again, up to `tries` times with a growing
    pause; after that they count as `PublisherUnavailable`. An event that is too large, or whose type has more than 128
    characters, becomes a dead letter, without the others.

    EventBridge acknowledges an event when it has stored it; it keeps no order.

    Args:
        bus: the name or the ARN of the event bus.
        source: the source of the entries and of the CloudEvents; `aws.…` is reserved.
        client: a boto3 client of `events`; leave out the next two arguments then. The default has short timeouts, and
            the credentials that boto3 finds.
        region: for example `"eu-central-1"`; by default the region that boto3 finds.
        endpoint_url: the URL of another EventBridge than AWS's.
        tries: attempts for each entry in one call of `publish`; 1 or more.
        pause: the longest wait before the second attempt, in seconds; it doubles with each attempt, with jitter.

    Raises:
        ConfigurationError: without a region, and for values that cannot be used.
    """

    def __init__(
        self,
        *,
        bus: str = "default",
        source: str = "actionengine",
        client: Any = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        tries: int = 4,
        pause: float = 0.2,
    ) -> None:
        if not bus:
            raise ConfigurationError("bus must be the name or the ARN of an event bus, not ''")
        if validate_source(source).startswith("aws."):
            raise ConfigurationError(f"a source that begins with 'aws.' is reserved for AWS: {source!r}")
        if tries < 1 or pause < 0:
            raise ConfigurationError(
                f"tries must be 1 or more, and pause 0 seconds or more, not {tries!r} and {pause!r}"
            )
        if client is not None and (region is not None or endpoint_url is not None):
            raise ConfigurationError("pass a client, or region and endpoint_url: a client has its own")
        self._bus = bus
        self._source = source
        self._tries = tries
        self._pause = pause
        self._client = client if client is not None else _client(region, endpoint_url)

    def __repr__(self) -> str:
        return f"EventBridgePublisher({self._bus!r})"

    def start(self) -> None:
        """Check the credentials, and the bus if they allow it. Raise `PublisherUnavailable`."""
        try:
            self._client.describe_event_bus(Name=self._bus)
        except ClientError as error:
            if _code(error) not in ("AccessDenied", "AccessDeniedException"):
                raise self._unavailable(error) from error
            _log.debug("%r: the credentials do not allow describing the bus: %s", self, error)
        except BotoCoreError as error:
            raise self._unavailable(error) from error

    def publish(self, events: Sequence[Event]) -> Failures:
        """Publish events, and return the failures. Raise `PublisherUnavailable` if each event has that failure."""
        failures: dict[str, PublishError] = {}
        entries: list[_Entry] = []
        for event in events:
            try:
                entries.append(self._entry(event))
            except PublishError as error:
                failures[event.id] = error
        unavailable: PublisherUnavailable | None = None
        for batch in _batches(entries):
            if unavailable is None:
                try:
                    failures.update(self._send(batch))
                    continue
                except PublisherUnavailable as error:
                    unavailable = error
            failures.update(dict.fromkeys((entry.id for entry in batch), unavailable))
        outages = [failure for failure in failures.values() if isinstance(failure, PublisherUnavailable)]
        if outages and len(outages) == len(events):
            raise outages[0]
        return failures

    def _entry(self, event: Event) -> _Entry:
        if len(event.type) > MAX_DETAIL_TYPE_LENGTH:
            raise PublishError(
                f"the type of the event has {len(event.type)} characters; "
                f"EventBridge takes {MAX_DETAIL_TYPE_LENGTH} in a detail type",
                retry=False,
            )
        try:
            detail = to_structured(event, self._source)[1].decode()
        except ValueError as error:
            raise PublishError(str(error), retry=False) from error
        fields: dict[str, Any] = {
            "Time": event.occurred_at,
            "Source": self._source,
            "DetailType": event.type.encode("utf-8", "replace").decode(),
            "Detail": detail,
            "EventBusName": self._bus,
        }
        size = _TIME_BYTES + sum(len(fields[name].encode()) for name in ("Source", "DetailType", "Detail"))
        if size > MAX_BYTES:
            raise PublishError(f"the event has {size} bytes; EventBridge takes {MAX_BYTES}", retry=False)
        return _Entry(event.id, size, fields)

    def _send(self, entries: Sequence[_Entry]) -> dict[str, PublishError]:
        """Send the entries of one call, and return the failures. Raise `PublisherUnavailable` if it fails."""
        failures: dict[str, PublishError] = {}
        waiting: dict[str, _Entry] = {entry.id: entry for entry in entries}
        throttled: dict[str, PublishError] = {}
        for attempt in range(self._tries):
            if attempt:
                time.sleep(full_jitter(delay(attempt, self._pause)))
            try:
                answers = self._put(list(waiting.values()))
            except _Refused as refusal:
                return failures | self._send_each(list(waiting.values()), refusal)
            except PublisherUnavailable as error:
                if attempt:
                    return failures | dict.fromkeys(waiting, error)
                raise
            throttled = {}
            for entry, answer in zip(waiting.values(), answers, strict=True):
                reason = self._failure(answer)
                if reason is None:
                    continue
                again = answer.get("ErrorCode") in _TRANSIENT
                (throttled if again else failures)[entry.id] = reason
            if not throttled:
                break
            waiting = {id: waiting[id] for id in throttled}
        return failures | throttled

    def _send_each(self, entries: Sequence[_Entry], refusal: _Refused) -> dict[str, PublishError]:
        """Send the entries of a refused call one by one, so that only the one at fault fails."""
        if len(entries) == 1:
            return {entries[0].id: PublishError(f"EventBridge refuses the event: {refusal}", retry=False)}
        failures: dict[str, PublishError] = {}
        for at, entry in enumerate(entries):
            try:
                failures.update(self._send([entry]))
            except PublisherUnavailable as error:
                return failures | dict.fromkeys((rest.id for rest in entries[at:]), error)
        return failures

    def _put(self, entries: Sequence[_Entry]) -> list[dict[str, Any]]:
        """Return AWS's answer for each entry."""
        try:
            answer = self._client.put_events(Entries=[entry.fields for entry in entries])
        except ParamValidationError as error:
            raise _Refused(str(error)) from error
        except ClientError as error:
            if _code(error) in _REFUSED:
                raise _Refused(str(error)) from error
            raise self._unavailable(error) from error
        except BotoCoreError as error:
            raise self._unavailable(error) from error
        answers: list[dict[str, Any]] = answer.get("Entries", [])
        if len(answers) != len(entries):
            raise PublisherUnavailable(f"EventBridge answered for {len(answers)} entries of {len(entries)}")
        return answers

    def _failure(self, answer: dict[str, Any]) -> PublishError | None:
        code = answer.get("ErrorCode")
        if not code:
            return None
        message = f"EventBridge, bus {self._bus!r}: {code}: {answer.get('ErrorMessage', '')}"
        if code in _TRANSIENT or code in _OUT_OF_ORDER:
            return PublisherUnavailable(message)
        return PublishError(message, retry=code not in _HOPELESS)

    def _unavailable(self, error: Exception) -> PublisherUnavailable:
        kind = "out of reach" if isinstance(error, HTTPClientError) else "not available"
        return PublisherUnavailable(f"EventBridge, bus {self._bus!r}, is {kind}: {type(error).__name__}: {error}")


def _client(region: str | None, endpoint_url: str | None) -> Any:
    config = Config(
        connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2}, tcp_keepalive=True
    )
    try:
        session = boto3.session.Session(region_name=region)
        return session.client("events", endpoint_url=endpoint_url, config=config)
    except NoRegionError:
        raise ConfigurationError("EventBridge needs a region: pass region, or set AWS_DEFAULT_REGION") from None
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(f"boto3 cannot make a client for EventBridge: {error}") from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _batches(entries: Sequence[_Entry]) -> Iterator[list[_Entry]]:
    batch: list[_Entry] = []
    size = 0
    for entry in entries:
        if batch and (len(batch) == MAX_ENTRIES or size + entry.size > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.size
    if batch:
        yield batch
