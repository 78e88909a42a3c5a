"""A server that can stop while clients watch the events."""

import socket

import uvicorn


class Server(uvicorn.Server):
    """A server that tells the application to stop. Otherwise uvicorn waits for the feeds, and they never end.

    Under plain uvicorn, `--timeout-graceful-shutdown` cuts them off.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.stopping.set()  # type: ignore[union-attr]
        await super().shutdown(sockets)
