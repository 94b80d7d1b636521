"""A worker process of the chaos run: `python -m chaos.labour` with a Shift as JSON."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from presgen import (
    CommitUnknown,
    DatabaseConfig,
    DatabaseManager,
    DatabaseUnavailable,
    JobCancelled,
    JobStatus,
    LeaseLost,
    PresentationJob,
    Worker,
)
from presgen.errors import DatabaseBusy, PoolTimeout

from .boundary import BOUNDARY, probe_the_boundary
from .checker import POISON
from .history import History, token_of
from .mutants import apply_mutant

OUTAGES: Final = (DatabaseUnavailable, PoolTimeout, CommitUnknown, DatabaseBusy)
DRIVER: Final = "CHAOS_DRIVER"
"""The environment variable with the id of the process that drives the run."""
_IDLE_SECONDS: Final = 0.02
_STAGES: Final = (JobStatus.SYNTHESIZING_AUDIO, JobStatus.ASSEMBLING_VIDEO)


@dataclass(frozen=True)
class Argument:
    """What a process is told on its command line, as JSON."""

    def as_argument(self) -> str:
        """The text that from_argument() reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> Self:
        """What a process's command line says."""
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Shift(Argument):
    """What a worker process has to know."""

    url: str
    folder: str
    name: str
    """The worker's name, which a process that takes a killed one's place keeps."""
    is_hand_written: bool
    """Whether it has a loop of its own; else a presgen.Worker."""
    lease_seconds: float
    hangs: float
    """The share of attempts that hang beyond their lease."""
    mishaps: float
    """The share of attempts that fail, and of those that are released."""
    seed: int


def opened(url: str, folder: str, name: str) -> tuple[DatabaseManager, History]:
    """A manager of few connections, on presgen as it is or on a mutant, and the history of this process."""
    logging.disable(logging.ERROR)
    threading.Thread(target=_end_with, args=(int(os.environ[DRIVER]),), daemon=True).start()
    manager = DatabaseManager(DatabaseConfig(url, pool_size=3, max_overflow=3, connect_timeout=5))
    apply_mutant(manager.database)
    history = History(Path(folder), name)
    history.attach()
    return manager, history


def _end_with(driver: int) -> None:
    """Leave no process behind when the driver is killed."""
    while os.getppid() == driver:
        time.sleep(1)
    os._exit(1)


class Labourer:
    """Makes videos in many small steps, and gets into trouble now and then, the same for the same seed."""

    def __init__(self, shift: Shift, history: History) -> None:
        self._shift = shift
        self._history = history

    def make_video(self, job: PresentationJob) -> None:
        """Work on the job up to its end; raises what its verbs raise, and _Mishap."""
        token = token_of(job.s3_pptx_path)
        chance = random.Random(f"{self._shift.seed}/{token}/{job.attempt}")
        self._mark(job, 1)
        if token.startswith(POISON):
            os.kill(os.getpid(), signal.SIGKILL)
        if token.startswith(BOUNDARY) and job.attempt == 1:
            probe_the_boundary(job, self._history)
        self._get_into_trouble(job, chance)
        for step, stage in enumerate(_STAGES[: chance.randint(0, len(_STAGES))], start=2):
            time.sleep(chance.uniform(0, 0.004))
            job.advance(stage, checkpoint={"attempt": job.attempt, "step": step})
        job.complete(f"/videos/{token}-{job.attempt}-{os.getpid()}.mp4")

    def _mark(self, job: PresentationJob, step: int) -> None:
        job.heartbeat(0.1, checkpoint={"attempt": job.attempt, "step": step})

    def _get_into_trouble(self, job: PresentationJob, chance: random.Random) -> None:
        if chance.random() < self._shift.hangs:
            time.sleep(self._shift.lease_seconds * chance.uniform(1.5, 3))
        mishap = chance.random()
        if mishap < self._shift.mishaps:
            raise _Mishap
        if mishap < self._shift.mishaps * 2:
            job.release()
            raise _Released


class _Mishap(Exception):
    """The work on a video failed."""


class _Released(Exception):
    """The work on a video is left to somebody else."""


class HandWrittenLoop:
    """What people write who do not use presgen.Worker: claims some jobs, and works on one after the other."""

    def __init__(self, shift: Shift, labourer: Labourer) -> None:
        self._shift = shift
        self._labourer = labourer
        self._is_stopping = False

    def run(self) -> None:
        """Work until SIGTERM."""
        signal.signal(signal.SIGTERM, self._stop)
        chance = random.Random(self._shift.seed)
        while not self._is_stopping:
            try:
                limit = chance.choice((1, 1, 2))
                jobs = PresentationJob.claim(self._shift.name, limit, lease=self._shift.lease_seconds)
                for job in jobs:
                    self._work_on(job)
            except OUTAGES:
                jobs = []
            if not jobs:
                time.sleep(_IDLE_SECONDS * chance.uniform(0.5, 1.5))

    def _work_on(self, job: Any) -> None:
        try:
            try:
                self._labourer.make_video(job)
            except JobCancelled:
                job.acknowledge_cancellation()
            except _Mishap as error:
                job.fail(error)
        except (LeaseLost, JobCancelled, _Released):
            pass  # somebody else has it, or it is over

    def _stop(self, *_: object) -> None:
        self._is_stopping = True


def _handler(labourer: Labourer) -> Any:
    def handler(job: PresentationJob) -> None:
        with suppress(_Released):
            labourer.make_video(job)

    return handler


def main() -> None:
    shift = Shift.from_argument(sys.argv[1])
    manager, history = opened(shift.url, shift.folder, shift.name)
    with manager:
        labourer = Labourer(shift, history)
        if shift.is_hand_written:
            HandWrittenLoop(shift, labourer).run()
        else:
            handler, lease = _handler(labourer), shift.lease_seconds
            Worker(manager, handler, name=shift.name, lease=lease, poll=_IDLE_SECONDS, concurrency=2).run()


if __name__ == "__main__":
    main()
