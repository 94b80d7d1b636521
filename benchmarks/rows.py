"""What a run finds: rows that compare presgen with somebody, what each contender took, and how that grows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limit:
    """How a ratio is to be read, and its bound, if there is one.

    A ceiling is for presgen's time over the other's; a floor for the other's time over presgen's.
    """

    is_ceiling: bool
    bound: float | None = None

    def ratio(self, ours: float, theirs: float) -> float:
        """The ratio of two times."""
        return ours / theirs if self.is_ceiling else theirs / ours

    def margin(self, ratio: float) -> float:
        """How good a ratio is: 1 is just at the bound, more is better."""
        bound = 1.0 if self.bound is None else self.bound
        return bound / ratio if self.is_ceiling else ratio / bound

    def __str__(self) -> str:
        return "" if self.bound is None else f"{'≤' if self.is_ceiling else '≥'} {self.bound:g}×"


def at_most(bound: float | None = None) -> Limit:
    """presgen may take so many times as long as the other."""
    return Limit(True, bound)


def at_least(bound: float | None = None) -> Limit:
    """presgen has to be so many times as fast as the other."""
    return Limit(False, bound)


@dataclass(frozen=True)
class Row:
    """One line of the table; `measured` is the ratio of the medians, None where the `note` says why not."""

    subject: str
    what: str
    against: str
    limit: Limit
    measured: float | None = None
    of_minima: float | None = None
    of_cpu: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a measurement."""
        if self.measured is None or self.limit.bound is None:
            return None
        return self.limit.margin(self.measured) >= 1


@dataclass(frozen=True)
class Measurement:
    """What a contender took for one operation: seconds of the clock and of this process's CPU (bytes for memory)."""

    subject: str
    contender: str
    rows: int | None
    rounds: int
    median: float
    minimum: float
    cpu_median: float | None = None
    cpu_minimum: float | None = None
    unit: str = "s"


@dataclass(frozen=True)
class Growth:
    """Median seconds by number of jobs, and the exponent: 0 costs the same at any size, 1 grows with the table."""

    operation: str
    contender: str
    seconds: dict[int, float]

    @property
    def exponent(self) -> float | None:
        """The slope of log(time) over log(rows), by least squares; None for a single size."""
        if len(self.seconds) < 2:
            return None
        points = [(math.log(rows), math.log(seconds)) for rows, seconds in self.seconds.items()]
        x, y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
        return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


@dataclass
class Report:
    """All that a run has found so far."""

    rows: list[Row] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    growths: dict[tuple[str, str], Growth] = field(default_factory=dict)

    def grow(self, operation: str, contender: str, rows: int, seconds: float) -> None:
        """Note the time of an operation at a size."""
        growth = self.growths.setdefault((operation, contender), Growth(operation, contender, {}))
        growth.seconds[rows] = seconds
