"""run(): one chaos run from its first job to its verdict."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path
from typing import Final

from presgen import DatabaseManager, User, VoiceClone

from .checker import Kind, Violation, check
from .crew import Crew
from .evidence import StoredEvent, StoredJob
from .history import REFUSED, TOLD, Entry, read_histories, token_of
from .mutants import DATABASE_SETTINGS, MUTANTS
from .plans import Plan
from .proxy import KINDS, CuttingProxy
from .server import CrashServer, Restart

_TEMPLATE: Final = "presgen"
_TICK_SECONDS: Final = 0.03
_LOOK_SECONDS: Final = 0.4
# The share of jobs by which everything has begun; the rest goes through what is left over.
_BY_THEN: Final = 0.9
# First what only the producer writes, which is done before the others.
_CUT_IN_TURN: Final = KINDS[::-1]
_numbers = count(1)

_FINISHED: Final = """
SELECT count(*) FILTER (WHERE status IN ('completed', 'failed', 'cancelled')), count(*) FROM presentation_jobs
"""
# Time passes faster for what waits for its backoff.
_PASS_TIME: Final = """
UPDATE presentation_jobs SET run_at = statement_timestamp() WHERE status = 'pending' AND run_at > statement_timestamp()
"""
_JOBS: Final = """
SELECT id, s3_pptx_path, status, attempt, max_attempts, error_message, s3_video_path, checkpoint FROM presentation_jobs
"""
_EVENTS: Final = "SELECT id, job_id, from_status, to_status, at, worker, attempt FROM job_events"


@dataclass
class Verdict:
    """What happened, what was wrong, and what did not happen though it should have."""

    seed: int
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    shortfalls: list[str] = field(default_factory=list)

    def of(self, kind: Kind) -> list[Violation]:
        """The violations of one kind."""
        return [violation for violation in self.violations if violation.kind is kind]

    def table(self) -> str:
        """The counts, one a line, those of what must not be last."""
        lines = [f"{number:>9,}  {label}" for label, number in self.counts.items()]
        lines += [f"{len(self.of(kind)):>9,}  {kind}" for kind in Kind]
        lines += [f"           {v.kind}: {v.subject}: {v.text}" for v in self.violations[:20]]
        lines += [f"           short of the plan: {shortfall}" for shortfall in self.shortfalls]
        return "\n".join(lines)


def prepare(server: CrashServer) -> None:
    """Make the database of which each run gets a copy."""
    with DatabaseManager(server.url) as manager:
        manager.migrate()
        owner = User.create(name="Ada", email="ada@example.com")
        VoiceClone.create(name="Ada's voice", s3_path="/voices/ada.wav", owner=owner, duration_seconds=3.5)


def use_a_copy(server: CrashServer, *, settings: Mapping[str, str]) -> None:
    """Let the server talk to a new copy of the prepared database, with settings of its own."""
    server.use(f"chaos_{next(_numbers)}", template=_TEMPLATE, settings=settings)


def run(plan: Plan, server: CrashServer, folder: Path, *, mutant: str | None = None) -> Verdict:
    """Go through the plan on a prepared server; the histories are left in the folder, which is new.

    The run of a mutant ends as soon as what it does wrong is seen.
    """
    use_a_copy(server, settings=DATABASE_SETTINGS.get(mutant or "", {}))
    verdict = Verdict(plan.seed)
    begin = time.monotonic()
    folder.mkdir()
    with CuttingProxy(server.socket) as proxy:
        crew = Crew(plan, url=proxy.url_of(server.database), folder=folder, mutant=mutant)
        try:
            crew.start()
            is_noticed = partial(_is_noticed, MUTANTS[mutant], server, folder) if mutant else None
            ordeal = _Ordeal(plan, server, proxy, crew)
            ordeal.go_through(until=is_noticed)
        finally:
            crew.dismiss()
    verdict.seconds = time.monotonic() - begin
    entries, jobs, events = read_histories(folder), stored_jobs(server), stored_events(server)
    verdict.violations = [*crew.violations, *check(entries, jobs, events)]
    verdict.counts = _counted(entries, jobs, events)
    verdict.counts.update(crew.counts)
    verdict.counts.update({f"restarts: {kind}": ordeal.restarts[kind] for kind in Restart})
    verdict.counts["restarts"] = ordeal.restarts.total()
    verdict.counts.update({f"replies cut: {kind}": proxy.cuts[kind] for kind in KINDS})
    verdict.counts["replies cut"] = proxy.cuts.total()
    wanted = {
        "jobs": plan.jobs,
        "SIGKILLs": plan.kills,
        "SIGSTOPs beyond the lease": plan.stops,
        "restarts": len(plan.restarts),
        "replies cut": plan.cuts,
    }
    verdict.shortfalls = [
        f"{verdict.counts[label]} {label} of {number}"
        for label, number in wanted.items()
        if verdict.counts[label] < number
    ]
    return verdict


class _Ordeal:
    """Does to the crew and the server what is planned, as the jobs go on."""

    def __init__(self, plan: Plan, server: CrashServer, proxy: CuttingProxy, crew: Crew) -> None:
        self._plan = plan
        self._server = server
        self._proxy = proxy
        self._crew = crew
        self._chance = random.Random(plan.seed)
        self._blows = self._schedule()
        self.restarts: Counter[Restart] = Counter()

    def go_through(self, *, until: Callable[[], bool] | None) -> None:
        """Return when every job is finished and everything has happened, or when the time is up.

        Looks now and then whether the condition `until`, if there is one, is reached before.
        """
        deadline = time.monotonic() + self._plan.seconds
        has_reordered = False
        look_again = time.monotonic() + _LOOK_SECONDS
        while time.monotonic() < deadline:
            self._crew.look_after()
            self._server.query(_PASS_TIME)
            ((finished, stored),) = self._server.query(_FINISHED)
            if finished == stored and self._crew.has_produced() and not self._blows:
                return
            share = finished / self._plan.jobs
            while self._blows and self._blows[0][0] <= share and self._deal(self._blows[0][1]):
                self._blows.popleft()
            if share > _BY_THEN and not has_reordered:
                has_reordered = True
                self._proxy.reorder()
            if until is not None and time.monotonic() > look_again:
                if until():
                    return
                look_again = time.monotonic() + _LOOK_SECONDS
            time.sleep(_TICK_SECONDS)

    def _schedule(self) -> deque[tuple[float, str]]:
        """By the share of jobs that is finished: the signals at random, cuts and restarts evenly."""
        plan = self._plan
        blows = [(self._chance.uniform(0.02, _BY_THEN), "kill") for _ in range(plan.kills)]
        blows += [(self._chance.uniform(0.02, _BY_THEN), "stop") for _ in range(plan.stops)]
        restarts = list(plan.restarts)
        self._chance.shuffle(restarts)
        blows += [(_BY_THEN * (n + 1) / (len(restarts) + 1), kind) for n, kind in enumerate(restarts)]
        blows += [
            (_BY_THEN * n / plan.cuts, f"cut {kind}") for n, kind in enumerate(islice(cycle(_CUT_IN_TURN), plan.cuts))
        ]
        return deque(sorted(blows))

    def _deal(self, blow: str) -> bool:
        if blow == "kill":
            return self._crew.kill(self._chance)
        if blow == "stop":
            return self._crew.put_to_sleep(self._chance)
        if isinstance(blow, Restart):
            self._server.restart(blow)
            self.restarts[blow] += 1
        else:
            self._proxy.order(blow.removeprefix("cut "))
        return True


def _is_noticed(kind: Kind, server: CrashServer, folder: Path) -> bool:
    """Whether there is something of that kind; the database is read last, as what is told comes after its event."""
    entries = read_histories(folder)
    return any(v.kind is kind for v in check(entries, stored_jobs(server), stored_events(server)))


def stored_jobs(server: CrashServer) -> list[StoredJob]:
    """The jobs as they are."""
    columns = ("id", "token", "status", "attempt", "max_attempts", "error_message", "video", "checkpoint")
    rows = (dict(zip(columns, row, strict=True)) for row in server.query(_JOBS))
    return [StoredJob(**{**row, "token": token_of(row["token"])}) for row in rows]


def stored_events(server: CrashServer) -> list[StoredEvent]:
    """The events as they are."""
    columns = ("id", "job", "before", "after", "at", "worker", "attempt")
    return [StoredEvent(**dict(zip(columns, row, strict=True))) for row in server.query(_EVENTS)]


def _counted(entries: list[Entry], jobs: list[StoredJob], events: list[StoredEvent]) -> Counter[str]:
    counts: Counter[str] = Counter({"jobs": len(jobs)})
    counts.update(sorted(f"jobs {job.status}" for job in jobs))
    counts["attempts"] = sum(event.is_claim for event in events)
    counts["attempts that let the job go, or lost it"] = sum(event.is_let_go for event in events)
    counts["events"] = len(events)
    counts["calls that returned"] = sum(entry.phase == TOLD for entry in entries)
    counts.update(sorted(f"calls that raised {entry.error}" for entry in entries if entry.phase == REFUSED))
    return counts
