"""Laps: what a task that does nothing notes of its calls, and what its worker's process reports."""

from __future__ import annotations

import json
import time


class Laps:
    """Counts calls; `was_last` is true from the last one on."""

    def __init__(self, expected: int) -> None:
        self.expected, self.calls = expected, 0
        self._first = self._cpu_first = 0.0

    def note(self) -> None:
        """Note a call of the task."""
        if not self.calls:
            self._first, self._cpu_first = time.time(), time.process_time()
        self.calls += 1

    @property
    def was_last(self) -> bool:
        """Whether all calls have been made."""
        return self.calls >= self.expected

    def report(self, finished: int, ended: float) -> None:
        """Print the seconds from the first call until `ended`, and the number of jobs that are finished.

        `ended` is the last finish that the server has stored, in seconds since the epoch: a library that writes it
        later, and several at a time, has not finished a job before.
        """
        cpu = time.process_time() - self._cpu_first
        print(json.dumps({"seconds": ended - self._first, "cpu": cpu, "finished": finished}))
