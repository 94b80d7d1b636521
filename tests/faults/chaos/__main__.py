"""The full chaos run, and every mutant: prints what happened, and ends with 1 when something is wrong."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from .mutants import MUTANTS
from .plans import FULL, MUTANT_PLANS, SHORT, Plan
from .run import prepare, run
from .server import CrashServer, Restart


def main() -> int:
    arguments = _parser().parse_args()
    print(f"chaos run on PostgreSQL {arguments.postgresql}, seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="presgen-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the server is another user's
        with CrashServer(folder / "server", version=arguments.postgresql) as server:
            prepare(server)
            is_well = not arguments.run or _goes_well(_plan(arguments), server, folder / "run")
            for mutant in arguments.mutants:
                is_well &= _is_noticed(mutant, server, folder / mutant, seed=arguments.seed)
    return 0 if is_well else 1


def _goes_well(plan: Plan, server: CrashServer, folder: Path) -> bool:
    verdict = run(plan, server, folder)
    print(f"{verdict.table()}\n{verdict.seconds:>9,.1f}  seconds", flush=True)
    return not (verdict.violations or verdict.shortfalls)


def _is_noticed(mutant: str, server: CrashServer, folder: Path, *, seed: int) -> bool:
    verdict = run(replace(MUTANT_PLANS[mutant], seed=seed), server, folder, mutant=mutant)
    found = Counter(str(violation.kind) for violation in verdict.violations)
    is_noticed = bool(verdict.of(MUTANTS[mutant]))
    said = ", ".join(f"{number} {kind}" for kind, number in found.most_common()) or "nothing"
    print(
        f"mutant {mutant}: {'noticed' if is_noticed else 'NOT NOTICED'} in {verdict.seconds:.1f} s: {said}", flush=True
    )
    return is_noticed


def _plan(arguments: argparse.Namespace) -> Plan:
    given = {name: getattr(arguments, name) for name in ("jobs", "workers", "kills", "cuts")}
    given = {name: value for name, value in given.items() if value is not None}
    plan = replace(SHORT if arguments.short else FULL, seed=arguments.seed, **given)
    if arguments.restarts is None:
        return plan
    kinds = tuple(Restart)
    return replace(plan, restarts=tuple(kinds[n % len(kinds)] for n in range(arguments.restarts)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="the sizes of the form that the suite runs")
    for name in ("jobs", "workers", "kills", "restarts", "cuts"):
        parser.add_argument(f"--{name}", type=int, help="in place of the plan's")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--postgresql", type=int, choices=(16, 18), default=18)
    parser.add_argument("--no-run", dest="run", action="store_false", help="only the mutants")
    parser.add_argument("--mutants", nargs="*", choices=tuple(MUTANTS), default=tuple(MUTANTS), metavar="MUTANT")
    return parser


if __name__ == "__main__":
    sys.exit(main())
