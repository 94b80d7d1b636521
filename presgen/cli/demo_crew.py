"""The demo's worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import click

from ..errors import PresgenError
from ..worker import default_name
from .columns import printable

STOP_SECONDS: Final = 10
LOG_LINES: Final = 12


class CrewLost(PresgenError):
    """No worker is left to do the jobs."""


class Crew:
    """Runs `count` processes of the video worker; their logs are `worker-N.log` in `folder`.

    They hear of the database through their environment, for a command line is there for all to read.
    """

    def __init__(
        self, folder: Path, count: int, *, database_url: str, store: Path, lease_seconds: float | None = None
    ) -> None:
        self._folder = folder
        self._names = [f"worker-{number}" for number in range(1, count + 1)]
        self._environ = {**os.environ, "DATABASE_URL": database_url, "PRESGEN_DEMO_STORE": str(store)}
        if lease_seconds is not None:
            self._environ["PRESGEN_DEMO_LEASE"] = str(lease_seconds)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._name_by_worker: dict[str, str] = {}

    def __enter__(self) -> Crew:
        try:
            for name in self._names:
                self._start(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def name_of(self, worker: str | None) -> str:
        """What a job's `worker` is called here: `worker-N`, or by its own name when it is none of the crew."""
        return self._name_by_worker.get(worker or "", worker or "")

    def replace(self, worker: str | None) -> str | None:
        """Kill the process that calls itself so, and start another in its place; gives its name here, if it runs."""
        name = self._name_by_worker.get(worker or "")
        process = self._running.get(name or "")
        if name is None or process is None or worker != _worker_of(process):
            return None
        process.kill()
        process.wait()
        self._start(name)
        return name

    def muster(self) -> list[str]:
        """A line for each worker that has ended since the last look; raises CrewLost when none is left."""
        ended = {name: code for name, process in self._running.items() if (code := process.poll()) is not None}
        for name in ended:
            del self._running[name]
        lines = [f"{name} ended {_cause(code)}, see {self._log(name)}" for name, code in ended.items()]
        if not self._running:
            for name in ended:
                click.echo(f"the end of {self._log(name)}:\n{self._tail(name)}", err=True)
            raise CrewLost(f"no worker is left: {'; '.join(lines)}")
        return lines

    def stop(self) -> None:
        """Let each worker finish the job in hand; kill those that have not ended after STOP_SECONDS."""
        deadline = time.monotonic() + STOP_SECONDS
        processes = self._running.values()
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            for process in processes:
                process.kill()
                process.wait()

    def _start(self, name: str) -> None:
        # -P: a checkout in the working folder must not stand in the way of the installed package.
        words = [sys.executable, "-P", "-m", "presgen.examples.video_worker"]
        with open(self._log(name), "wb") as log:
            process = subprocess.Popen(
                words, env=self._environ, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self._running[name] = process
        self._name_by_worker[_worker_of(process)] = name

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _tail(self, name: str) -> str:
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(map(printable, lines[-LOG_LINES:])) or "(empty)"


def _worker_of(process: subprocess.Popen[bytes]) -> str:
    """What the worker of a process calls itself."""
    return default_name(process.pid)


def _cause(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
