"""`Part`: what a relay does at one queue of the outbox. Parts share nothing, so that none waits for another one."""

from __future__ import annotations

from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.events.publishers.port import Publisher
from actionengine.events.relay.delivery import Deliverer
from actionengine.events.relay.publisher_loop import publisher_loop
from actionengine.events.relay.worker import RelaySettings, RelayWorker
from actionengine.storage.port import Storage


class Part:
    """Delivers the events of one queue to the publisher that takes from it."""

    def __init__(
        self, storage: Storage, queue: str, publisher: Publisher, deliverer: Deliverer, settings: RelaySettings
    ) -> None:
        self.queue = queue
        self._storage = storage
        self._publisher = publisher
        self._deliverer = deliverer
        self._settings = settings
        self._shift: RelayWorker | None = None
        self.is_stopped = False

    def run(self) -> None:
        """Deliver events until `stop` is called."""
        run_sync(self.work("sync", ends=False))

    async def work(self, mode: Mode, ends: bool) -> int:
        """Deliver events until `stop` is called, or until none is due; how many."""
        if self._shift is not None:
            raise RuntimeError("this relay is running already: make another one")
        # A publisher that executes actions opens connections in its event loop.
        at_start, at_end = (getattr(self._storage, name, None) for name in ("limit_idle", "aclose_loop"))
        loop = publisher_loop(mode, at_start, at_end)
        outbox = self._storage.outbox(mode, self.queue)
        shift = self._shift = RelayWorker(
            outbox, loop, self._deliverer, self._publisher, self._settings, self.queue, self._storage.backlog
        )
        try:
            if self.is_stopped and not ends:
                shift.stop()
            return await shift.work(ends)
        finally:
            self._shift = None
            self.is_stopped = False
            await shift.close()

    def stop(self) -> None:
        """Let `run` come to its end."""
        self.is_stopped = True
        shift = self._shift
        if shift is not None:
            shift.stop()
