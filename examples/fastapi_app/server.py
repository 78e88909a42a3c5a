"""A server that can stop while clients watch the events."""

import socket

import uvicorn


class Server(uvicorn.Server):
    """Tells the application that it stops. uvicorn would wait for the feeds to end, and they for somebody to say so.

    Under plain uvicorn, `--timeout-graceful-shutdown` cuts them off.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.stopping.set()  # type: ignore[union-attr]
        await super().shutdown(sockets)
