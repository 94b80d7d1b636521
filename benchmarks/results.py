"""The results of a run for other programs (JSON) and for readers (Markdown), with the machine they are of."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from presgen.embedded import EmbeddedServer

from . import table
from .filling import cursor_on
from .peers import version_of
from .rows import Report

_LIBRARIES = ("presgen", "peewee", "psycopg2-binary", "sqlalchemy", "django", "procrastinate", "psycopg", "pgqueuer",
              "asyncpg")  # fmt: skip


def machine(server: EmbeddedServer, settings: Mapping[str, str]) -> dict[str, str]:
    """What the numbers depend on, and the command."""
    with cursor_on(server.url) as cursor:
        cursor.execute("SHOW server_version")
        (version,) = cursor.fetchone()
    found = {name: version_of(name) for name in _LIBRARIES}
    return {
        "command": " ".join(["python -m benchmarks", *map(shlex.quote, sys.argv[1:])]),
        "commit": _commit(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "load at the end": f"{os.getloadavg()[1]:.1f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "postgresql": f"{version}, over a Unix socket, on the same cores",
        "settings": ", ".join(f"{name} = {value}" for name, value in settings.items()),
        "libraries": ", ".join(f"{name} {version or '(not installed)'}" for name, version in found.items()),
    }


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def as_json(report: Report, about: dict[str, str]) -> dict[str, Any]:
    """Everything, in plain values; times in seconds, memory in bytes."""
    return {
        "machine": about,
        "rows": [{**asdict(row), "target": str(row.limit), "met": row.met} for row in report.rows],
        "growth": [{**asdict(growth), "exponent": growth.exponent} for growth in report.growths.values()],
        "measurements": [asdict(one) for one in report.measurements],
    }


def markdown(report: Report, about: dict[str, str]) -> str:
    """RESULTS.md."""
    facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
    first, *others = (table.in_markdown(head, lines) for head, lines in table.tables(report))
    missed = [row for row in report.rows if row.met is False]
    kept = [row for row in report.rows if row.met]
    return "\n".join(
        [
            "# Results of the benchmarks",
            "",
            "Written by the command below; what is measured and how is told in the files of this folder.",
            "",
            facts,
            "",
            f"{len(kept)} targets are met, {len(missed)} are not. `measured` is the ratio of the medians of the clock; "
            "`minima` and `CPU` (of the client's process) are beside it. Rows without a target say whether the ratio "
            "is of presgen's time to the other's, or how many times as fast presgen is.",
            "",
            first,
            "",
            *(f"{text}\n" for text in others),
        ]
    )
