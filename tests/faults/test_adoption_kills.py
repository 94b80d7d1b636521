"""SIGKILL at any step of an adoption: done anew it ends as one that was not disturbed.

Every step: python -m adoption_kills, which `tox -e faults` runs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from adoption_kills import MUTANTS, kill_everywhere
from fixtures.sqlalchemy_rows import fill_database
from killing import Violation


def test_a_killed_adoption_was_not_there_and_is_done_anew(postgresql: str, new_database: Callable[..., str]) -> None:
    assert kill_everywhere(new_database, fill_database, every=29) > 60


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_checker_notices_what_is_wrong(postgresql: str, new_database: Callable[..., str], mutant: str) -> None:
    with pytest.raises(Violation):
        kill_everywhere(new_database, fill_database, every=29, mutant=mutant)
