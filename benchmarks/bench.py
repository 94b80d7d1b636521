"""Bench: what every subject gets: the server, the effort to make, who is absent, and the report to write to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from presgen.embedded import EmbeddedServer

from .filling import Databases, create, fill
from .rounds import Contender, Race, race
from .rows import Report


@dataclass(frozen=True)
class Effort:
    """How much is measured. Sizes are numbers of jobs."""

    sizes: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    rounds: int = 15
    round_seconds: float = 0.1
    bulk_rows: int = 20_000
    bulk_rounds: int = 7
    memory_rows: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    queue_jobs: int = 1_500
    worker_jobs: int = 5_000
    queue_rounds: int = 7
    starts: int = 11
    checkouts: int = 4_000


QUICK = Effort(
    sizes=(1_000, 4_000),
    rounds=2,
    round_seconds=0.005,
    bulk_rows=500,
    bulk_rounds=2,
    memory_rows=(1_000, 10_000),
    queue_jobs=50,
    worker_jobs=50,
    queue_rounds=1,
    starts=1,
    checkouts=64,
)


@dataclass
class Bench:
    """One run."""

    server: EmbeddedServer
    effort: Effort
    absent: dict[str, str]
    report: Report = field(default_factory=Report)
    _filled: dict[str, Databases] = field(default_factory=dict)

    def has(self, peer: str) -> bool:
        """Whether the peer takes part."""
        return peer not in self.absent

    def databases(self, jobs: int, purpose: str = "reads") -> Databases:
        """Two databases with the same rows, one with presgen's schema and one with SQLAlchemy's."""
        name = f"{purpose}_{jobs}"
        if name not in self._filled:
            self._filled[name] = fill(self.server, name, jobs, with_sqlalchemy=self.has("SQLAlchemy"))
        return self._filled[name]

    def empty_database(self, name: str) -> str:
        """The URL of a new database."""
        return create(self.server, name)

    def race(self, subject: str, contenders: Sequence[Contender], *, rows: int | None = None, **options: int) -> Race:
        """Race with this run's effort, and note the timings in the report."""
        rounds = options.pop("rounds", self.effort.rounds)
        seconds = self.effort.round_seconds
        done = race(subject, contenders, rounds=rounds, seconds=seconds, rows=rows, absent=self.absent, **options)
        return done.noted_in(self.report)
