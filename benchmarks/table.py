"""The table of a run, in the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .rows import Growth, Measurement, Report, Row

_UNITS = {"s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")), "B": ((2.0**20, "MiB"),), "jobs/s": ((1.0, "jobs/s"),)}
HEAD = ("what", "against", "measured", "minima", "CPU", "target", "met")
MEASUREMENT_HEAD = ("subject", "contender", "jobs", "median", "minimum", "CPU median", "rounds")


def cells(row: Row) -> tuple[str, ...]:
    """A row's cells."""
    if row.measured is None:
        return row.what, row.against, "—", "", "", str(row.limit), row.note
    met = {True: "yes", False: "NO", None: ""}[row.met]
    of = [_ratio(row.measured), _ratio(row.of_minima), _ratio(row.of_cpu)]
    return row.what, row.against, *of, str(row.limit) or _direction(row), f"{met} ({row.note})" if row.note else met


def measurement_cells(one: Measurement) -> tuple[str, ...]:
    """A measurement's cells."""
    rows = "" if one.rows is None else f"{one.rows:,}"
    cpu = "" if one.cpu_median is None else amount(one.cpu_median, one.unit)
    return (
        one.subject,
        one.contender,
        rows,
        amount(one.median, one.unit),
        amount(one.minimum, one.unit),
        cpu,
        str(one.rounds),
    )


def growth_cells(growth: Growth, sizes: Sequence[int]) -> tuple[str, ...]:
    """A growth's cells, with a column for each size."""
    exponent = "" if growth.exponent is None else f"{growth.exponent:.2f}"
    times = (amount(growth.seconds[size]) if size in growth.seconds else "" for size in sizes)
    return growth.operation, growth.contender, *times, exponent


def amount(value: float, unit: str = "s") -> str:
    """A value in a unit that suits its size."""
    for factor, name in _UNITS[unit]:
        if value >= factor or (factor, name) == _UNITS[unit][-1]:
            return f"{value / factor:.3g} {name}"
    raise AssertionError(unit)


def tables(report: Report) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """The run's tables, each a head and its lines: targets, growth, measurements."""
    found = [(HEAD, [cells(row) for row in report.rows])]
    sizes = sorted({size for growth in report.growths.values() for size in growth.seconds})
    if sizes:
        head = ("grows with the number of jobs", "", *(f"{size:,}" for size in sizes), "exponent")
        found.append((head, [growth_cells(growth, sizes) for growth in report.growths.values()]))
    found.append((MEASUREMENT_HEAD, [measurement_cells(one) for one in report.measurements]))
    return found


def in_columns(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Aligned text."""
    widths = [max(len(line[place]) for line in (head, *lines)) for place in range(len(head))]
    texts = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *lines))
    return "\n".join(text.rstrip() for text in texts)


def in_markdown(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    rule = ("---",) * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"


def _direction(row: Row) -> str:
    return "(time)" if row.limit.is_ceiling else "(faster)"
