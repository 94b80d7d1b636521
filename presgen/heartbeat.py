"""Heartbeat: a thread that gives signs of life while the code of a block works."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Final

import peewee as pw

from .errors import JobCancelled, LeaseLost, PresgenError

logger = logging.getLogger("presgen.worker")

_START_AGAIN_SECONDS: Final = 1.0


class Heartbeat:
    """Calls `beat()` every so many seconds until the block ends, or until the job is lost or cancelled.

    Its thread is started when the first beat is due: most jobs have ended before, and a thread costs more than they do.
    """

    def __init__(self, beat: Callable[[], None], *, every_seconds: float, name: str) -> None:
        self._beat = beat
        self._every_seconds = every_seconds
        self._done = threading.Event()
        self._name = name
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def __enter__(self) -> Heartbeat:
        _STARTER.start_at(time.monotonic() + self._every_seconds, self)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        _STARTER.forget(self)
        with self._starting:
            thread = self._thread
        if thread is not None:
            # A beat that hangs with its server must not hold up the end of the job; the fence keeps it harmless.
            thread.join(self._every_seconds)

    def stop(self) -> None:
        """Let no further beat begin."""
        self._done.set()

    def start(self) -> None:
        """Start to beat, unless the block has ended."""
        with self._starting:
            if not self._done.is_set():
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                self._beat()
            except (JobCancelled, LeaseLost) as error:
                logger.info("%s", error)  # the handler hears of it at its next write
                return
            except (PresgenError, pw.PeeweeException) as error:
                # One may be missed; the lease is as long as several.
                logger.warning("%s: %s", self._name, error)
            self._done.wait(self._every_seconds)


class _Starter:
    """One thread that starts heartbeats when they are due; it sleeps until then, and a process has one at the most."""

    def __init__(self) -> None:
        self._due: dict[Heartbeat, float] = {}
        self._has_news = threading.Condition()
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    def start_at(self, moment: float, heartbeat: Heartbeat) -> None:
        with self._has_news:
            self._due[heartbeat] = moment
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="presgen-heartbeats", daemon=True)
                self._thread.start()
            elif moment < self._wakes_at:
                self._has_news.notify()

    def forget(self, heartbeat: Heartbeat) -> None:
        with self._has_news:
            self._due.pop(heartbeat, None)

    def renew(self) -> None:
        """Begin anew: in a forked child the thread, and the jobs, are the parent's."""
        self.__init__()  # type: ignore[misc]

    def _run(self) -> None:
        while True:
            for heartbeat in self._wait():
                try:
                    heartbeat.start()
                except RuntimeError as error:  # there are too many threads for another one
                    logger.warning("%s; trying again", error)
                    self.start_at(time.monotonic() + _START_AGAIN_SECONDS, heartbeat)

    def _wait(self) -> list[Heartbeat]:
        """Wait for heartbeats that are due; they are no longer expected."""
        with self._has_news:
            self._wakes_at = min(self._due.values(), default=math.inf)
            left = self._wakes_at - time.monotonic()
            if left > 0:
                self._has_news.wait(None if left == math.inf else min(left, threading.TIMEOUT_MAX))
            now = time.monotonic()
            due = [heartbeat for heartbeat, moment in self._due.items() if moment <= now]
            for heartbeat in due:
                del self._due[heartbeat]
            return due


_STARTER: Final = _Starter()
os.register_at_fork(after_in_child=_STARTER.renew)
