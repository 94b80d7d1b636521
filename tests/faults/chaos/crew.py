"""Crew: the processes of a run, and what is done to them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import presgen

from .checker import Kind, Violation
from .labour import DRIVER, Shift
from .mutants import VARIABLE
from .plans import Plan
from .producer import Order

_FOLDER = Path(__file__).parent.parent
_DRAIN_SECONDS = 20


class Crew:
    """Worker processes that are replaced when they die, and a producer; `counts` says what became of them."""

    def __init__(self, plan: Plan, *, url: str, folder: Path, mutant: str | None) -> None:
        self._plan = plan
        self._url = url
        self._folder = folder
        self._environment = _environment(mutant)
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._producer: subprocess.Popen[bytes] | None = None
        self._asleep: dict[str, float] = {}
        self._killed: set[int] = set()
        self.counts: Counter[str] = Counter()
        self.violations: list[Violation] = []

    def start(self) -> None:
        """Start the producer and the workers."""
        plan = self._plan
        order = Order(
            url=self._url,
            folder=str(self._folder),
            jobs=plan.jobs,
            poison=plan.poison,
            boundary=plan.boundary,
            cancelled=plan.cancelled,
            backlog=plan.backlog,
            seed=plan.seed,
        )
        self._producer = self._spawn("producer", order.as_argument(), name="producer")
        for number in range(plan.workers):
            self._hire(f"w{number}")

    def has_produced(self) -> bool:
        """Whether every job is enqueued."""
        assert self._producer is not None
        return self._producer.poll() == 0

    def look_after(self) -> None:
        """Replace the workers that have died, and wake those that have slept long enough."""
        for name, worker in list(self._workers.items()):
            if worker.poll() is not None:
                self._note_death(name, worker)
                self._hire(name)
        for name, until in list(self._asleep.items()):
            if time.monotonic() >= until:
                del self._asleep[name]
                self._workers[name].send_signal(signal.SIGCONT)
        assert self._producer is not None
        if self._producer.poll():
            self.violations.append(Violation(Kind.CRASHED, "producer", self._last_words("producer")))

    def kill(self, chance: random.Random) -> bool:
        """Send SIGKILL to a worker that has begun to work; tells whether there was one."""
        worker = self._victim(chance)
        if worker is None:
            return False
        self._killed.add(self._workers[worker].pid)
        self._workers[worker].kill()
        self._workers[worker].wait()
        self.counts["SIGKILLs"] += 1
        return True

    def put_to_sleep(self, chance: random.Random) -> bool:
        """Send SIGSTOP to a worker that has begun to work, for longer than its leases."""
        worker = self._victim(chance)
        if worker is None:
            return False
        self._workers[worker].send_signal(signal.SIGSTOP)
        self._asleep[worker] = time.monotonic() + self._plan.lease_seconds * chance.uniform(1.2, 2)
        self.counts["SIGSTOPs beyond the lease"] += 1
        return True

    def dismiss(self) -> None:
        """Let every worker finish what it has in hand, on SIGTERM."""
        for worker in self._workers.values():
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
        deadline = time.monotonic() + _DRAIN_SECONDS
        for name, worker in self._workers.items():
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
                self.violations.append(Violation(Kind.CRASHED, name, f"did not end in {_DRAIN_SECONDS} s of SIGTERM"))
            else:
                self._note_death(name, worker)
        self._workers.clear()
        if self._producer is not None:
            self._producer.kill()
            self._producer.wait()

    def _victim(self, chance: random.Random) -> str | None:
        ready = [
            name
            for name, worker in self._workers.items()
            if worker.poll() is None and name not in self._asleep and self._has_history(name, worker)
        ]
        return chance.choice(ready) if ready else None

    def _has_history(self, name: str, worker: subprocess.Popen[bytes]) -> bool:
        path = self._folder / f"{name}-{worker.pid}.jsonl"
        return path.exists() and path.stat().st_size > 0

    def _hire(self, name: str) -> None:
        number = int(name.removeprefix("w"))
        shift = Shift(
            url=self._url,
            folder=str(self._folder),
            name=name,
            is_hand_written=number % 2 == 0,
            lease_seconds=self._plan.lease_seconds,
            hangs=self._plan.hangs,
            mishaps=self._plan.mishaps,
            seed=self._plan.seed,
        )
        self._asleep.pop(name, None)
        self._workers[name] = self._spawn("labour", shift.as_argument(), name=name)
        self.counts["worker processes"] += 1

    def _note_death(self, name: str, worker: subprocess.Popen[bytes]) -> None:
        if worker.returncode == -signal.SIGKILL:
            self.counts["deaths by poison"] += worker.pid not in self._killed
        elif worker.returncode == -signal.SIGTERM and not self._has_history(name, worker):
            pass  # it was still on its way to work
        elif worker.returncode != 0:
            text = f"ended with {worker.returncode}: {self._last_words(name)}"
            self.violations.append(Violation(Kind.CRASHED, name, text))

    def _last_words(self, name: str) -> str:
        lines = (self._folder / f"{name}.stderr").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _spawn(self, module: str, argument: str, *, name: str) -> subprocess.Popen[bytes]:
        with open(self._folder / f"{name}.stderr", "ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", f"chaos.{module}", argument],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )


def _environment(mutant: str | None) -> dict[str, str]:
    """This process's environment; without a measurement of coverage, whose files a SIGKILL would tear."""
    names = ("COVERAGE_", "PG", "DATABASE_", "POSTGRES_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    checkout = Path(presgen.__file__).parent.parent  # where presgen is, if it is not installed
    paths = [_FOLDER, checkout] if (checkout / "setup.cfg").exists() else [_FOLDER]
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONSAFEPATH": "1", DRIVER: str(os.getpid())}
    return environment if mutant is None else {**environment, VARIABLE: mutant}
