"""Publishers by address, for the command line."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any, cast
from urllib.parse import SplitResult, parse_qsl, urlsplit

from actionengine.errors import ConfigurationError
from actionengine.events.publishers.port import Publisher
from actionengine.events.publishers.stdout import StdoutPublisher
from actionengine.masking.redaction import redact, redact_address

_BROKER_OPTIONS = ("destination", "mode", "source", "publish_timeout", "connect_timeout")
_KINDS = "nats://, kafka://, amqp://, redis://, eventbridge://, stdout: or module:attribute"
_log = logging.getLogger("actionengine")
_user_info = re.compile("^([a-z]+://)?.*@").sub
_is_attribute = re.compile(r"[\w.]+:[\w.]+").fullmatch


def publisher_from_address(address: str) -> Publisher:
    """Return the publisher of an address. It connects when it is started.

    - `nats://host:4222?stream=EVENTS`: JetStream, or NATS without storage if no stream is named.
    - `kafka://host:9092,other:9092`, with the acknowledgement of all replicas.
    - `amqp://user:password@host/vhost?exchange=events`, `amqps://…`: RabbitMQ; without an exchange, to queues.
    - `redis://host:6379/0?to=stream`, `rediss://…`: to streams, to lists (`to=list`), or to channels (`to=channel`).
    - `eventbridge://bus?region=eu-central-1&endpoint_url=…`: EventBridge; without a bus, the default one.
    - `stdout:`: a line of JSON for each event.
    - `module:attribute`: a publisher, or a function without arguments that returns one.

    Addresses with `://`, and `stdout:`, also take `source`; those of brokers take `destination`, `mode` (`structured`
    or `binary`), `publish_timeout` and `connect_timeout` (seconds).

    Raises:
        ConfigurationError: for an address that names no publisher, or whose extra is not installed. Its message never
            contains a password.
    """
    scheme, separator, _ = address.partition(":")
    maker = _MAKERS.get(scheme.lower())
    if maker is not None and separator:
        try:
            return maker(_Address(address))
        except ImportError as error:
            extra = "eventbridge" if scheme == "eventbridge" else "brokers"
            raise ConfigurationError(
                f"{_redact_address(address)} needs a package that is not installed ({error}): "
                f"pip install 'actionengine[{extra}]'{_CLIENTS.get(scheme.lower(), '')}"
            ) from error
        except ValueError:
            # The text in place of the port may be a password.
            raise ConfigurationError(
                f"{redact_address(address)} is not an address: the port must be a number, and @ : / ? # % in a "
                f"password must be written as %40 %3A %2F %3F %23 %25"
            ) from None
    if _is_attribute(address):
        return _imported(address)
    raise ConfigurationError(f"{_redact_address(address)!r} names no publisher: give {_KINDS}")


def _redact_address(address: str) -> str:
    """Return an address without its user, its password, and the secrets in its query."""
    return redact(_user_info(r"\1***@", address))


class _Address:
    """An address in its parts."""

    def __init__(self, address: str) -> None:
        self.shown = _redact_address(address)
        try:
            self._parts: SplitResult = urlsplit(address)
            self._query = dict(parse_qsl(self._parts.query, keep_blank_values=True, strict_parsing=False))
        except ValueError as error:
            raise ConfigurationError(f"{self.shown} is not an address: {error}") from None
        self.scheme = self._parts.scheme
        self.user_info, _, self.hosts = self._parts.netloc.rpartition("@")
        self.path = self._parts.path

    @property
    def url(self) -> str:
        """The address without its query. Raises `ConfigurationError` if it names no host."""
        self.check_host()
        return self._parts._replace(query="", fragment="").geturl()

    def check_host(self) -> None:
        """Raise `ConfigurationError` if it names no host."""
        if not all(self.hosts.split(",")):
            raise ConfigurationError(f"{self.shown} names no host: write {self.scheme}://host:port")

    def options(self, *names: str) -> dict[str, str]:
        """Return the parameters of the query. Raise `ConfigurationError` for another one than these."""
        unknown = sorted(set(self._query) - set(names))
        if unknown:
            raise ConfigurationError(
                f"{self.shown.partition('?')[0]} does not take {', '.join(unknown)}, but {', '.join(names)}"
            )
        return dict(self._query)


def _broker_publisher(broker: Any, address: _Address, given: dict[str, str], own: Collection[str] = ()) -> Publisher:
    from actionengine.events.publishers.brokers import BrokerPublisher

    options = {name: given.pop(name) for name in own if name in given}
    arguments: dict[str, Any] = dict(given)
    for name in ("publish_timeout", "connect_timeout"):
        if name in arguments:
            arguments[name] = _seconds(address, name, arguments[name])
    return BrokerPublisher(broker, options=options, **arguments)


def _seconds(address: _Address, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"{address.shown}: {name} must be a number of seconds, not {text!r}") from None


def _nats(address: _Address) -> Publisher:
    from faststream.nats import NatsBroker

    given = address.options(*_BROKER_OPTIONS, "stream")
    address.check_host()
    user = f"{address.user_info}@" if address.user_info else ""
    servers = [f"nats://{user}{host}" for host in address.hosts.split(",")]
    # The publisher reconnects itself; the client's own attempts would only delay that.
    broker = NatsBroker(servers, connect_timeout=2, max_reconnect_attempts=1, reconnect_time_wait=0, logger=_log)
    return _broker_publisher(broker, address, given, ["stream"])


def _kafka(address: _Address) -> Publisher:
    from faststream.kafka import KafkaBroker

    given = address.options(*_BROKER_OPTIONS)
    address.check_host()
    if address.user_info:
        raise ConfigurationError(
            f"{address.shown}: a Kafka address takes no user: make a BrokerPublisher, and name it as module:attribute"
        )
    return _broker_publisher(KafkaBroker(address.hosts.split(","), acks="all", logger=_log), address, given)


def _rabbit(address: _Address) -> Publisher:
    from faststream.rabbit import RabbitBroker

    given = address.options(*_BROKER_OPTIONS, "exchange")
    return _broker_publisher(RabbitBroker(address.url, logger=_log), address, given, ["exchange"])


def _redis(address: _Address) -> Publisher:
    from faststream.redis import RedisBroker

    given = address.options(*_BROKER_OPTIONS, "to")
    if given.get("to", "stream") not in ("stream", "list", "channel"):
        raise ConfigurationError(f"{address.shown}: `to` must be stream, list or channel")
    return _broker_publisher(RedisBroker(address.url, logger=_log), address, given)


def _eventbridge(address: _Address) -> Publisher:
    from actionengine.events.publishers.eventbridge import EventBridgePublisher

    given: dict[str, Any] = address.options("source", "region", "endpoint_url")
    return EventBridgePublisher(bus=(address.hosts + address.path).rstrip("/") or "default", **given)


def _stdout(address: _Address) -> Publisher:
    given: dict[str, Any] = address.options("source")
    return StdoutPublisher(**given)


def _imported(address: str) -> Publisher:
    name, _, path = address.partition(":")
    try:
        found: Any = import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{address}: there is no module {error.name!r} on the import path") from error
    except Exception as error:
        raise ConfigurationError(f"{address}: importing {name} raised {type(error).__name__}: {error}") from error
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise ConfigurationError(f"{address}: {name} has no {path}") from None
    if callable(found) and (isinstance(found, type) or not hasattr(found, "publish")):
        try:
            found = found()
        except Exception as error:
            raise ConfigurationError(f"{address} raised {type(error).__name__}: {error}") from error
    if not callable(getattr(found, "publish", None)):
        raise ConfigurationError(f"{address} is not a publisher: {type(found).__name__} has no publish(events)")
    return cast("Publisher", found)


_MAKERS: Mapping[str, Callable[[_Address], Publisher]] = {
    "nats": _nats,
    "kafka": _kafka,
    "amqp": _rabbit,
    "amqps": _rabbit,
    "redis": _redis,
    "rediss": _redis,
    "eventbridge": _eventbridge,
    "stdout": _stdout,
}
_CLIENTS: Mapping[str, str] = {
    "nats": " 'faststream[nats]'",
    "kafka": " 'faststream[kafka]'",
    "amqp": " 'faststream[rabbit]'",
    "amqps": " 'faststream[rabbit]'",
    "redis": " 'faststream[redis]'",
    "rediss": " 'faststream[redis]'",
}
