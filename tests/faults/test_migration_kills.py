"""SIGKILL at every step of one of two migrators: each migration is applied once and whole.

Every step: python -m migration_kills, which `tox -e faults` runs.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from killing import Violation
from migration_kills import MUTANTS, kill_everywhere


def test_no_kill_leaves_a_migration_half_or_twice(
    postgresql: str, new_database: Callable[..., str], later: Path
) -> None:
    assert kill_everywhere(new_database, later, every=6) > 60


def test_no_kill_leaves_a_file_half_migrated(later: Path, tmp_path: Path) -> None:
    numbers = count()
    assert kill_everywhere(lambda: f"sqlite:///{tmp_path}/{next(numbers)}.db", later, every=2) > 30


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_checker_notices_what_is_wrong(
    postgresql: str, new_database: Callable[..., str], later: Path, mutant: str
) -> None:
    with pytest.raises(Violation):
        kill_everywhere(new_database, later, mutant=mutant)
