"""Races: contenders answer the same question, are compared, and then timed in turns, in a new order every round."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .rows import Limit, Measurement, Report, Row

_ANSWERS_COMPARED = 3
_CALLS_MAX = 500


class Mismatch(Exception):
    """Two contenders did not do the same."""


@dataclass(frozen=True)
class Contender:
    """Somebody who answers; `work` gets the number of the call, `shown` makes plain values of its result.

    `work` is what is timed. Contenders with the same `question` must give equal values. `reset` runs, untimed,
    before each round's calls, which are made inside `around`. `operations` is how many operations a call makes.
    """

    name: str
    work: Callable[[int], Any]
    shown: Callable[[Any], Any] = field(default=lambda result: result)
    question: str = ""
    reset: Callable[[], Any] = bool
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    operations: int = 1
    calls_max: int = _CALLS_MAX


@dataclass
class Timing:
    """Seconds for one operation, by round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass
class Race:
    """What the contenders of a subject took."""

    subject: str
    rows: int | None
    timings: dict[str, Timing]
    absent: dict[str, str]

    def row(self, what: str, against: str, limit: Limit, *, ours: str = "presgen", note: str = "") -> Row:
        """A line of the table about presgen (one of its contenders) and another one."""
        if against not in self.timings:
            return Row(self.subject, what, against, limit, note=why_absent(against, self.absent))
        mine, other = self.timings[ours], self.timings[against]
        cpu = (median(mine.cpu), median(other.cpu)) if mine.cpu and other.cpu else None
        return Row(
            self.subject,
            what,
            against,
            limit,
            measured=limit.ratio(median(mine.wall), median(other.wall)),
            of_minima=limit.ratio(min(mine.wall), min(other.wall)),
            of_cpu=limit.ratio(*cpu) if cpu and min(cpu) > 0 else None,
            note=note,
        )

    def median(self, contender: str) -> float:
        """The contender's median seconds."""
        return median(self.timings[contender].wall)

    def noted_in(self, report: Report) -> Race:
        """The race, once its timings are in the report."""
        for name, timing in self.timings.items():
            cpu = (median(timing.cpu), min(timing.cpu)) if timing.cpu else (None, None)
            wall = median(timing.wall), min(timing.wall)
            report.measurements.append(Measurement(self.subject, name, self.rows, len(timing.wall), *wall, *cpu))
        return self


def why_absent(contender: str, absent: dict[str, str]) -> str:
    """What to say of a contender who did not run."""
    return next((why for peer, why in absent.items() if contender.startswith(peer)), "missing")


def compare(subject: str, contenders: Sequence[Contender], calls: int = _ANSWERS_COMPARED) -> None:
    """Let everybody answer the first calls; raises Mismatch with the names of those who differ."""
    first: dict[str, tuple[str, list[Any]]] = {}
    for one in contenders:
        one.reset()
        with one.around():
            answers = [one.shown(one.work(number)) for number in range(calls)]
        name, expected = first.setdefault(one.question, (one.name, answers))
        for mine, theirs in zip(answers, expected, strict=True):
            if mine != theirs:
                raise Mismatch(f"{subject}: {one.name} gives {_short(mine)}, but {name} gives {_short(theirs)}")


def race(
    subject: str,
    contenders: Sequence[Contender],
    *,
    rounds: int,
    seconds: float,
    rows: int | None = None,
    absent: dict[str, str] | None = None,
    compared: int = _ANSWERS_COMPARED,
) -> Race:
    """Compare, then time everybody in every round, for about so many seconds; raises Mismatch."""
    compare(subject, contenders, compared)
    timings = {one.name: Timing() for one in contenders}
    numbers = dict.fromkeys(timings, compared)
    calls = {one.name: 1 for one in contenders}
    for one in contenders:
        wall, _ = _timed(one, numbers, 1)
        calls[one.name] = max(1, min(one.calls_max, round(seconds / max(wall, 1e-7))))
    order, chance = list(contenders), random.Random(subject)
    for _ in range(rounds):
        chance.shuffle(order)
        for one in order:
            wall, cpu = _timed(one, numbers, calls[one.name])
            operations = calls[one.name] * one.operations
            timings[one.name].wall.append(wall / operations)
            timings[one.name].cpu.append(cpu / operations)
    return Race(subject, rows, timings, absent or {})


def _timed(one: Contender, numbers: dict[str, int], calls: int) -> tuple[float, float]:
    """Seconds of the clock and of the CPU for some calls, with the numbers that follow those of the calls before."""
    first = numbers[one.name]
    numbers[one.name] = first + calls
    one.reset()
    gc.collect()
    gc.freeze()  # what all the peers' libraries consist of, which no program has together
    work = one.work
    with one.around():
        began, cpu_began = time.perf_counter(), time.process_time()
        for number in range(first, first + calls):
            work(number)
        cpu_ended, ended = time.process_time(), time.perf_counter()
    return ended - began, cpu_ended - cpu_began


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}…"
