"""How much of what a run has to go through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from .server import Restart


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of a run, and what happens in it."""

    jobs: int
    workers: int
    kills: int = 0
    """Workers that get a SIGKILL."""
    stops: int = 0
    """Workers that get a SIGSTOP, and a SIGCONT when their leases are over."""
    restarts: tuple[Restart, ...] = ()
    cuts: int = 0
    """Replies to committed writes that are dropped."""
    poison: int = 0
    boundary: int = 0
    cancelled: float = 0.0
    hangs: float = 0.01
    mishaps: float = 0.01
    backlog: int = 150
    lease_seconds: float = 1.0
    seconds: float
    """When the run ends at the latest; jobs that are not finished by then are lost."""
    seed: int = 1


FULL: Final = Plan(
    jobs=10_000,
    workers=8,
    kills=200,
    stops=40,
    restarts=tuple(Restart) * 5,
    cuts=160,
    poison=12,
    boundary=20,
    cancelled=0.02,
    seconds=3600,
)
SHORT: Final = Plan(
    jobs=200,
    workers=4,
    kills=6,
    stops=2,
    restarts=tuple(Restart),
    cuts=9,
    poison=1,
    boundary=2,
    cancelled=0.05,
    backlog=60,
    lease_seconds=0.8,
    seconds=240,
)

# Few jobs and many hands. A mutant's run ends when it is noticed; the rest is patience.
_CROWD: Final = Plan(jobs=5000, workers=4, hangs=0.0, mishaps=0.0, boundary=0, backlog=4, lease_seconds=0.4, seconds=60)
MUTANT_PLANS: Final[Mapping[str, Plan]] = {
    "no_fence": replace(_CROWD, hangs=0.7, backlog=2),
    "no_row_lock": _CROWD,
    "async_commit": replace(_CROWD, jobs=400, backlog=40, restarts=(Restart.KILL, Restart.IMMEDIATE) * 4),
    "lease_not_strict": replace(_CROWD, jobs=20, boundary=20),
    "claim_without_recheck": _CROWD,
    "rescue_without_attempt": replace(_CROWD, hangs=0.7, backlog=2),
}
