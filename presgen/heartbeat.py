"""Heartbeat: a thread that gives signs of life while the code of a block works."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import peewee as pw

from .errors import JobCancelled, LeaseLost, PresgenError

logger = logging.getLogger("presgen.worker")


class Heartbeat:
    """Calls `beat()` every so many seconds until the block ends, or until the job is lost or cancelled."""

    def __init__(self, beat: Callable[[], None], *, every_seconds: float, name: str) -> None:
        self._beat = beat
        self._every_seconds = every_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        # A beat that hangs with its server must not hold up the end of the job; the fence keeps it harmless.
        self._thread.join(self._every_seconds)

    def stop(self) -> None:
        """Let no further beat begin."""
        self._done.set()

    def _run(self) -> None:
        while not self._done.wait(self._every_seconds):
            try:
                self._beat()
            except (JobCancelled, LeaseLost) as error:
                logger.info("%s", error)  # the handler hears of it at its next write
                return
            except (PresgenError, pw.PeeweeException) as error:
                # One may be missed; the lease is as long as several.
                logger.warning("%s: %s", self._thread.name, error)
