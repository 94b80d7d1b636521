"""SIGKILL at every step of archiving and restoring: no job is lost, and none is there twice.

60,000 jobs: python -m archive_kills, which `tox -e faults` runs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from archive_kills import MUTANTS, kill_everywhere
from killing import Violation

JOBS, BATCH = 600, 30


def test_no_kill_loses_or_doubles_a_job(empty_url: str, tmp_path: Path) -> None:
    result = kill_everywhere(empty_url, tmp_path / "archive", jobs=JOBS, batch=BATCH)
    # More than one batch has steps, so that each of its steps was somebody's last.
    assert all(kills > 30 for kills in result["kills"].values())
    assert result["ratio"] is None or result["ratio"] <= 0.25


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_checker_notices_what_is_wrong(mutant: str, tmp_path: Path) -> None:
    with pytest.raises(Violation, match="jobs are lost|are there twice"):
        kill_everywhere(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "archive", jobs=300, batch=30, mutant=mutant)
