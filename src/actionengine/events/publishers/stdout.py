"""`StdoutPublisher`: events as lines of text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import BinaryIO

from actionengine.events.event import Event
from actionengine.events.publishers.cloudevents import to_structured, validate_source

_NO_BREAKS = bytes.maketrans(b"\r\n", b"  ")


class StdoutPublisher:
    """Writes each event as one line of JSON, a structured CloudEvent, to the standard output or to a binary `stream`.

    Raises `ConfigurationError` for a source that is not a URI reference.
    """

    def __init__(self, *, source: str = "actionengine", stream: BinaryIO | None = None) -> None:
        self._source = validate_source(source)
        self._stream = stream

    def publish(self, events: Sequence[Event]) -> None:
        """Write events, and flush. Raise `OSError` if the stream fails."""
        # JSON has line breaks between tokens only: in a text they are escaped.
        lines = [to_structured(event, self._source)[1].translate(_NO_BREAKS) + b"\n" for event in events]
        stream = self._stream or sys.stdout.buffer
        stream.write(b"".join(lines))
        stream.flush()
