"""A proxy for TCP connections whose way can be cut and closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_CHUNK = 1 << 16
_HOST = "127.0.0.1"


class TcpProxy:
    """Listens on a port of its own, which stays its own while it refuses; a context manager.

    Args:
        target: the port on this machine to hand connections on to; asked anew for each of them.
    """

    def __init__(self, target: Callable[[], int | None]) -> None:
        self._target = target
        # Bound for the proxy's whole life and never listening: nobody else gets the port.
        self._holder = _bound(0)
        self.port = int(self._holder.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.refuse(on=False)
        return self

    def __exit__(self, *raised: object) -> None:
        self.refuse(on=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._holder.close()

    def cut(self) -> int:
        """Close every open connection at once, in the middle of whatever it carries; how many."""
        return int(self._do(self._cut()))

    def refuse(self, *, on: bool) -> None:
        """Cut what is open and refuse new connections, or take them again."""
        self._do(self._refuse() if on else self._listen())

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=_bound(self.port))

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> int:
        cut, self._open = self._open, set()
        for writer in cut:
            writer.transport.abort()
        await asyncio.sleep(0.05)  # the pumps notice
        return len(cut) // 2

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # either end may go at any moment
            there_reader, there_writer = await asyncio.open_connection(_HOST, self._target())
            both = {writer, there_writer}
            self._open |= both
            try:
                await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
            finally:
                self._open -= both
                there_writer.close()
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


def _bound(port: int) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind((_HOST, port))
    return one
