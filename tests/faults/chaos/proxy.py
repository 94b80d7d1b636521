"""CuttingProxy: stands between workers and server, and drops the replies to writes that the server has committed."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

_SSL_REQUEST: Final = 80877103
_GSS_REQUEST: Final = 80877104
_WROTE: Final = re.compile(rb"(?:UPDATE|COPY|INSERT 0|MERGE) [1-9]|COMMIT")
# What acting_as() sends along with each statement.
_TELLS: Final = re.compile(rb"^SELECT set_config\([^;]*\); ")
_PREPARES: Final = re.compile(rb"^PREPARE (\w+) AS (.*)", re.DOTALL)
_EXECUTES: Final = re.compile(rb"^EXECUTE (\w+)")
_WRITES: Final = (
    ("claim", re.compile(rb'"attempt" = \("presentation_jobs"."attempt" \+ 1\)')),
    ("rescue", re.compile(rb"lease expired: ")),
    ("complete", re.compile(rb"^UPDATE .* SET \"status\" = 'completed'", re.DOTALL)),
    ("advance", re.compile(rb"^UPDATE .* SET \"status\" = '(?:synthesizing_audio|assembling_video)'", re.DOTALL)),
    ("fail, release", re.compile(rb"^UPDATE .* SET \"status\" = '(?:pending|failed)'", re.DOTALL)),
    ("cancel", re.compile(rb"^UPDATE .* SET .*\"cancel_requested_at\" = COALESCE", re.DOTALL)),
    ("heartbeat", re.compile(rb"^UPDATE ")),
    ("enqueue", re.compile(rb"^(?:INSERT|COPY) ")),
    ("COMMIT", re.compile(rb"^COMMIT")),
)
KINDS: Final = tuple(kind for kind, _ in _WRITES)


def kind_of(statement: bytes) -> str | None:
    """What a statement writes; None for one that only reads."""
    statement = _TELLS.sub(b"", statement)
    return next((kind for kind, pattern in _WRITES if pattern.search(statement)), None)


class Held(NamedTuple):
    """A reply that is kept back, until the server has said what became of the write."""

    order: str
    kind: str


class CuttingProxy:
    """Forwards connections from a loopback port to a server's Unix socket.

    Of each ordered kind of write it lets one through to the server, waits until the server has answered that it is
    committed, and then closes both ends in place of passing the answer on. `cuts` counts those that did happen.
    """

    def __init__(self, socket: Path, *, port: int = 0) -> None:
        self.socket = socket
        self.port = port
        self.is_stalled = False
        self.cuts: Counter[str] = Counter()
        self.round_trips = 0
        self._orders: Counter[str] = Counter()
        self._prepared: dict[bytes, bytes] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listener: Any = None
        self.open: set[asyncio.Transport] = set()

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url_of(self, database: str) -> str:
        """The URL of a database, through the proxy."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}?sslmode=disable&gssencmode=disable"

    def order(self, kind: str) -> None:
        """Cut the reply to the next write of that kind."""
        with self._lock:
            self._orders[kind] += 1

    def reorder(self) -> None:
        """Turn what is still ordered into orders of any kind."""
        with self._lock:
            waiting = self._orders.total()
            self._orders.clear()
            self._orders["any"] = waiting

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Take connections and what they send, and pass nothing on for the block."""
        asyncio.run_coroutine_threadsafe(self._stall(True), self._loop).result()
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(self._stall(False), self._loop).result()

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Let new connections find no server for the block; those that are open stay."""
        socket, self.socket = self.socket, Path("nowhere")
        try:
            yield
        finally:
            self.socket = socket

    def in_full(self, statement: bytes) -> bytes:
        """What a statement does, also where it only names what was prepared."""
        if (prepares := _PREPARES.match(statement)) is not None:
            self._prepared[prepares[1]] = prepares[2]
        executes = _EXECUTES.match(_TELLS.sub(b"", statement))
        return statement if executes is None else self._prepared[executes[1]]

    def take_order(self, statement: bytes) -> Held | None:
        """The order for the statement, if its reply is to be cut."""
        if not self._orders:
            return None
        kind = kind_of(statement)
        if kind is None:
            return None
        with self._lock:
            order = next((order for order in (kind, "any") if self._orders[order] > 0), None)
            if order is not None:
                self._orders[order] -= 1
            self._orders += Counter()  # forgets what has gone down to nothing
        return None if order is None else Held(order, kind)

    async def _listen(self) -> None:
        self._listener = await self._loop.create_server(lambda: _Client(self), "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _stall(self, is_stalled: bool) -> None:
        self.is_stalled = is_stalled
        for transport in self.open:
            if is_stalled:
                transport.pause_reading()
            else:
                transport.resume_reading()

    async def _close(self) -> None:
        self._listener.close()
        for transport in list(self.open):
            transport.abort()
        while self.open or len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)


class _End(asyncio.Protocol):
    """One end of a connection; when it closes, so does the other."""

    transport: asyncio.Transport
    other: _End | None = None
    is_lost = False

    def __init__(self, proxy: CuttingProxy) -> None:
        self.proxy = proxy
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.proxy.open.add(self.transport)
        if self.proxy.is_stalled:
            self.transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.proxy.open.discard(self.transport)
        if self.other is not None:
            self.other.transport.close()


class _Client(_End):
    """A worker's end: takes its messages apart, to choose which replies to cut."""

    _is_started = False
    _is_copying = False
    _task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            path = str(self.proxy.socket)
            _, server = await asyncio.get_running_loop().create_unix_connection(lambda: _Server(self.proxy), path)
        except OSError:  # the server is down
            self.transport.abort()
            return
        self.other, server.other = server, self
        if self.is_lost:
            server.transport.close()
        else:
            self._forward()

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.other is not None:
            self._forward()

    def _forward(self) -> None:
        server = cast(_Server, self.other)
        while (message := self._next_message()) is not None:
            if self._is_started:
                self._choose(server, message)
            elif int.from_bytes(message[4:8]) in (_SSL_REQUEST, _GSS_REQUEST):
                self.transport.write(b"N")
                continue
            else:
                self._is_started = True
            server.transport.write(message)

    def _choose(self, server: _Server, message: bytes) -> None:
        if message[:1] == b"Q":
            self.proxy.round_trips += 1
            # A COPY's reply asks for its rows; the one that counts comes after their end.
            self._is_copying = message[5:9] == b"COPY"
            if not self._is_copying:
                server.held = self.proxy.take_order(self.proxy.in_full(message[5:-1]))
        elif message[:1] == b"c" and self._is_copying:
            server.held = self.proxy.take_order(b"COPY ")

    def _next_message(self) -> bytes | None:
        """The next whole message: a letter and a length, but for the first, which has no letter."""
        start = 1 if self._is_started else 0
        end = start + int.from_bytes(self.received[start : start + 4])
        if len(self.received) < max(end, start + 4):
            return None
        message = bytes(self.received[:end])
        del self.received[:end]
        return message


class _Server(_End):
    """The server's end: passes replies on, all but the one that is held."""

    held: Held | None = None

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self.held is not None:
            self.proxy.order(self.held.order)

    def data_received(self, data: bytes) -> None:
        client = self.other
        if client is None or self.held is None:
            if client is not None:
                client.transport.write(data)
            return
        self.received += data
        is_committed = _is_committed(self.received)
        if is_committed is None:
            return
        held, self.held = self.held, None
        if is_committed:
            self.proxy.cuts[held.kind] += 1
            client.transport.abort()
            self.transport.close()
        else:
            self.proxy.order(held.order)
            client.transport.write(bytes(self.received))
        self.received.clear()


def _is_committed(reply: bytes | bytearray) -> bool | None:
    """Whether the server says that it has written something and is outside a transaction; None while it speaks."""
    has_written, position = False, 0
    while position + 5 <= len(reply):
        end = position + 1 + int.from_bytes(reply[position + 1 : position + 5])
        letter, body = reply[position : position + 1], reply[position + 5 : end]
        if letter == b"C":
            has_written = _WROTE.match(body) is not None
        elif letter == b"E":
            has_written = False
        elif letter == b"Z" and len(body) == 1:
            return has_written and body == b"I"
        position = end
    return None
