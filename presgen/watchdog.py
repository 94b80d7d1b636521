"""Watchdog: breaks off what waits longer than it may for a server that has gone silent.

A server that is stopped still acknowledges packets, and so does a proxy that stalls: neither TCP nor libpq has a limit
for that. Only the client can end it, by shutting the line down.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

_LOOK_EVERY_SECONDS: Final = 0.05


class Watchdog:
    """One thread for any number of connections, started when it is first needed."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[float, Any]] = {}
        self._is_needed = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, connection: Any, seconds: float) -> Iterator[None]:
        """Break the connection's line off when the block takes longer; what waits for the server then fails."""
        key, watched = id(connection), self._watched
        watched[key] = time.monotonic() + seconds, connection
        self._is_needed.set()
        if self._thread is None or not self._thread.is_alive():
            self._start()
        try:
            yield
        finally:
            watched.pop(key, None)

    def forget(self) -> None:
        """Begin anew: in a forked child the connections are the parent's, and to break one off would hit the parent."""
        self.__init__()  # type: ignore[misc]

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="presgen-watchdog", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._is_needed.clear()
            if not self._watched:  # looked at after the clearing, so that nobody's wish is cleared unseen
                self._is_needed.wait()
            now = time.monotonic()
            for key, (deadline, connection) in tuple(self._watched.items()):
                if now >= deadline and self._watched.pop(key, None) is not None:
                    break_off(connection)
            time.sleep(_LOOK_EVERY_SECONDS)


def break_off(connection: Any) -> None:
    """Shut a connection's line down, so that the thread that waits for its server gets an error at once."""
    if not connection.closed:
        with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
