"""SIGKILL at any step of partitioning: the application goes on, and a second installation ends as an undisturbed one.

Every step: python -m partition_kills, which `tox -e faults` runs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from killing import Violation
from partition_kills import MUTANTS, kill_everywhere


def test_a_killed_conversion_is_gone_on_with(postgresql: str, new_database: Callable[..., str]) -> None:
    assert kill_everywhere(new_database, every=23) > 100


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_checker_notices_what_is_wrong(postgresql: str, new_database: Callable[..., str], mutant: str) -> None:
    with pytest.raises(Violation):
        kill_everywhere(new_database, every=23, mutant=mutant)
