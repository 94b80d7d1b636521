"""Footprint: the time of an import and the memory of an idle worker, each in processes of their own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from .bench import Bench
from .filling import cursor_on
from .rounds import Race, Timing
from .rows import Measurement, Row, at_most

# psycopg v3 slows `import peewee` where it is installed.
_BEFORE = """
import sys, time
sys.modules["psycopg"] = None
sys.path.insert(0, {peers!r})
began, cpu_began = time.perf_counter(), time.process_time()
"""
_AFTER = """
seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
import json, resource
try:
    pages = int(open("/proc/self/statm").read().split()[1])
    resident = pages * resource.getpagesize()
except OSError:
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, cpu, resident]))
"""
_IMPORTS = {
    "bare interpreter": "",
    "presgen": "import presgen",
    # As a module beside the others, so that neither this package nor a compilation is counted.
    "SQLAlchemy": "import psycopg2, sqlalchemy, sqlalchemy.orm, sqlalchemy_models",
}
_IDLE = {
    "bare interpreter": "",
    "presgen": """
from presgen import DatabaseManager, PresentationJob
manager = DatabaseManager({presgen!r})
manager.open()
assert PresentationJob.claim("idle") == []
""",
    "SQLAlchemy": """
import psycopg2, sqlalchemy, sqlalchemy.orm, sqlalchemy_models as models
url = {sqlalchemy!r}
engine = sqlalchemy.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(url), pool_pre_ping=True)
session = sqlalchemy.orm.sessionmaker(autocommit=False, autoflush=False, bind=engine)()
pending = models.PresentationJob.status == models.JobStatus.PENDING
session.query(models.PresentationJob).filter(pending).first()
""",
}


def footprint(bench: Bench) -> Iterator[Row]:
    """Imports, then idle workers, in turns."""
    databases = bench.databases(0)
    with cursor_on(databases.presgen) as cursor:
        cursor.execute("TRUNCATE presentation_jobs CASCADE")
    inside, whole, _ = _processes(bench, "import", _IMPORTS, {})
    yield inside.row("import", "SQLAlchemy", at_most(0.35), note="without the interpreter's start")
    yield whole.row("import, with the interpreter's start", "SQLAlchemy", at_most())
    urls = {"presgen": databases.presgen, "sqlalchemy": databases.sqlalchemy}
    _, _, memory = _processes(bench, "idle worker", _IDLE, urls)
    bare = memory["bare interpreter"]
    absent = bench.absent.get("SQLAlchemy")
    for what, limit, less in (
        ("memory of an idle worker", at_most(0.6), 0.0),
        ("memory of an idle worker, without the interpreter's", at_most(), bare),
    ):
        if absent:
            yield Row("footprint", what, "SQLAlchemy", limit, note=absent)
        else:
            ratio = (memory["presgen"] - less) / (memory["SQLAlchemy"] - less)
            yield Row("footprint", what, "SQLAlchemy", limit, measured=ratio)


def _said_by(code: str) -> str:
    # Installed packages are compiled; a checkout is not, where Python may write no bytecode, and would be each time.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def _processes(
    bench: Bench, subject: str, codes: dict[str, str], urls: dict[str, str]
) -> tuple[Race, Race, dict[str, float]]:
    """Races of what the code takes and of what its process takes, and the median of the processes' memory."""
    order = [name for name in codes if name not in bench.absent]
    inside, whole = ({name: Timing() for name in order} for _ in range(2))
    resident: dict[str, list[float]] = {name: [] for name in order}
    chance = random.Random(subject)
    before = _BEFORE.format(peers=str(Path(__file__).parent / "peers"))
    for number in range(bench.effort.starts + 1):
        chance.shuffle(order)
        for name in order:
            code = before + codes[name].format(**urls) + _AFTER
            began = time.perf_counter()
            said = _said_by(code)
            took = time.perf_counter() - began
            seconds, cpu, memory = json.loads(said)
            if number:  # the first one fills the caches
                inside[name].wall.append(seconds)
                inside[name].cpu.append(cpu)
                whole[name].wall.append(took)
                resident[name].append(memory)
    for name in order:
        found = median(resident[name]), min(resident[name])
        bench.report.measurements.append(
            Measurement(f"{subject}, memory", name, None, bench.effort.starts, *found, unit="B")
        )
    del inside["bare interpreter"]
    races = [Race("footprint", None, timings, bench.absent) for timings in (inside, whole)]
    for race, kind in zip(races, ("", ", whole process"), strict=True):
        Race(subject + kind, None, race.timings, {}).noted_in(bench.report)
    return races[0], races[1], {name: median(found) for name, found in resident.items()}
