"""Every number that presgen promises, measured beside its peers: `python -m benchmarks`.

It starts a PostgreSQL of its own. Contenders of a subject answer the same question, are compared, and take turns in an
order that is shuffled every round; a mismatch ends the run. What `measured` tells is the ratio of the medians of the
clock; beside it stand those of the minima and of this process's CPU time.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

# psycopg v3 slows `import peewee`, and Django would choose it; only the queues, in processes of their own, need it.
sys.modules["psycopg"] = None  # type: ignore[assignment]

from presgen.embedded import EmbeddedServer

from . import bulk, footprint, metrics, pages, plot, pool, queues, results, single_rows, table
from .bench import QUICK, Bench, Effort
from .cores import awake, servers_half
from .peers import PEERS, absent_peers
from .rounds import Mismatch
from .rows import Report, Row

SUBJECTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "save": single_rows.save,
    "get": single_rows.get,
    "page": pages.page,
    "bulk": bulk.bulk,
    "deep": pages.deep,
    "metrics": metrics.metrics,
    "voices": pages.voices,
    "claim": queues.claim,
    "worker": queues.worker,
    "pool": pool.pool,
    "footprint": footprint.footprint,
}
_SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "maintenance_work_mem": "256MB",
    "timezone": "UTC",
}
# Not what anybody should trust jobs to: so libraries are compared, and not how busy the disk was.
_WITHOUT_THE_DISK = {"synchronous_commit": "off", "fsync": "off"}


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=_names(SUBJECTS), default=list(SUBJECTS), help=", ".join(SUBJECTS))
    parser.add_argument("--peers", type=_names(map(str.lower, PEERS)), default=[name.lower() for name in PEERS])
    parser.add_argument("--sizes", type=_sizes, help="numbers of jobs, e.g. 1000,100000")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true", help="only see that it works")
    parser.add_argument("--durable", action="store_true", help="wait for the disk at each commit")
    parser.add_argument("--postgresql", type=int, default=18, choices=(16, 18), help="the server's version")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE")
    parser.add_argument("--results", type=Path, metavar="FILE", help="Markdown, with the machine")
    return parser.parse_args(arguments)


def measure(bench: Bench, subjects: list[str]) -> Report:
    """Run the subjects, and tell on the way which."""
    for name in (name for name in SUBJECTS if name in subjects):  # those that write come after those that read
        began = time.monotonic()
        bench.report.rows.extend(SUBJECTS[name](bench))
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return bench.report


def main() -> int:
    """Measure, print the tables, and write the files that are asked for."""
    chosen = options()
    # The specification's `date.today()` is this process's, and its columns are UTC.
    os.environ["TZ"] = "UTC"
    time.tzset()
    logging.getLogger("database").setLevel(logging.ERROR)  # a page by OFFSET is slow, and known to be
    effort = _effort(chosen)
    settings = _SETTINGS if chosen.durable else _SETTINGS | _WITHOUT_THE_DISK
    with TemporaryDirectory(prefix="presgen-benchmarks-") as folder:
        Path(folder).chmod(0o755)
        with ExitStack() as stack:
            stack.enter_context(awake())
            with servers_half():
                place = Path(folder) / "server"
                server = stack.enter_context(EmbeddedServer(place, version=chosen.postgresql, settings=settings))
            bench = Bench(server, effort, absent_peers(chosen.peers))
            try:
                report = measure(bench, chosen.only)
            except Mismatch as error:
                print(f"mismatch: {error}", file=sys.stderr)
                return 1
            machine = results.machine(server, settings)
    for head, lines in table.tables(report):
        print(table.in_columns(head, lines), end="\n\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(results.as_json(report, machine), indent=2) + "\n")
    if chosen.svg:
        chosen.svg.write_text(plot.svg(report.rows))
    if chosen.results:
        chosen.results.write_text(results.markdown(report, machine))
    return 0


def _effort(chosen: argparse.Namespace) -> Effort:
    effort = QUICK if chosen.quick else Effort()
    given = {name: getattr(chosen, name) for name in ("sizes", "rounds") if getattr(chosen, name)}
    return replace(effort, **given)


def _names(known: object) -> Callable[[str], list[str]]:
    """A list of known names, after commas."""
    names = list(known)  # type: ignore[call-overload]

    def parsed(text: str) -> list[str]:
        found = [name.strip().lower() for name in text.split(",") if name.strip()]
        unknown = [name for name in found if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(names)}")
        return found

    return parsed


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(size.replace("_", "")) for size in text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
