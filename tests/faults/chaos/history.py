"""History: what each process was told, on disk before its next step, so that it outlives a SIGKILL."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any, Final

from presgen import PresentationJob

BEGUN: Final = "begun"
TOLD: Final = "told"
REFUSED: Final = "refused"

VERBS: Final = (
    "advance",
    "heartbeat",
    "keep_alive",
    "complete",
    "fail",
    "release",
    "acknowledge_cancellation",
    "cancel",
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line: a call that was begun, that returned (told) or that raised (refused)."""

    verb: str
    phase: str
    session: str = ""
    """The process that wrote the line: the name of its file."""
    call: int = 0
    job: int | None = None
    attempt: int | None = None
    worker: str | None = None
    token: str | None = None
    """What the job was enqueued as; outlives a crash that gives its id to another job."""
    before: str | None = None
    after: str | None = None
    at: datetime | None = None
    """The database's time of a claim."""
    lease: datetime | None = None
    """The database's time at which the lease expires, as told."""
    video: str | None = None
    checkpoint: dict[str, int] | None = None
    max_attempts: int | None = None
    error: str | None = None


class History:
    """A process's file of entries; one write per call, which no other thread's can tear."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = os.open(folder / f"{name}-{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._calls = count(1)

    def write(self, *entries: Entry) -> None:
        """Append entries."""
        os.write(self._file, "".join(_line(entry) for entry in entries).encode())

    def attach(self) -> None:
        """Record every claim and every verb of a job from now on, whoever calls them."""
        job: Any = PresentationJob
        job.claim = self._recorded_claim(job.claim)
        for verb in VERBS:
            setattr(job, verb, self._recorded(verb, getattr(job, verb)))

    def _recorded_claim(self, claim: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        @wraps(claim)
        def recorded(worker: str, *arguments: Any, **options: Any) -> list[Any]:
            with self._refusals(Entry(verb="claim", phase=REFUSED, worker=worker)):
                jobs = claim(worker, *arguments, **options)
            self.write(*(_claimed(job) for job in jobs))
            return jobs

        return recorded

    def _recorded(self, verb: str, method: Callable[..., None]) -> Callable[..., None]:
        @wraps(method)
        def recorded(job: Any, *arguments: Any, **options: Any) -> None:
            facts = {
                "verb": verb,
                "call": next(self._calls),
                "job": job.id,
                "attempt": job.attempt,
                "worker": job.worker,
                "before": str(job.status),
                "video": arguments[0] if verb == "complete" else None,
                "checkpoint": options.get("checkpoint"),
            }
            self.write(Entry(phase=BEGUN, **facts))
            with self._refusals(Entry(phase=REFUSED, **facts)):
                method(job, *arguments, **options)
            # Only verbs of the handler's own thread may read its instance.
            lease = job.lease_expires_at if verb in ("advance", "heartbeat") else None
            self.write(Entry(phase=TOLD, lease=lease, after=str(job.status), **facts))

        return recorded

    @contextmanager
    def _refusals(self, entry: Entry) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.write(Entry(**{**vars(entry), "error": type(error).__name__}))
            raise


def read_histories(folder: Path) -> list[Entry]:
    """The entries of all processes, those of each in the order in which it wrote them."""
    entries = []
    for path in sorted(folder.glob("*.jsonl")):
        # What follows the last line end is still being written.
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            facts = json.loads(line)
            for name in ("at", "lease"):
                if name in facts:
                    facts[name] = datetime.fromisoformat(facts[name])
            entries.append(Entry(session=path.stem, **facts))
    return entries


def _claimed(job: Any) -> Entry:
    return Entry(
        verb="claim",
        phase=TOLD,
        job=job.id,
        attempt=job.attempt,
        worker=job.worker,
        token=token_of(job.s3_pptx_path),
        after=str(job.status),
        at=job.started_at,
        lease=job.lease_expires_at,
        checkpoint=job.checkpoint,
    )


def path_of(token: str) -> str:
    """The path under which a token's job is enqueued."""
    return f"/decks/{token}.pptx"


def token_of(path: str) -> str:
    """The token of a job with that path."""
    return Path(path).stem


def _line(entry: Entry) -> str:
    facts = {name: value for name, value in asdict(entry).items() if value is not None and name != "session"}
    return json.dumps(facts, default=_as_text) + "\n"


def _as_text(value: Any) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()
