"""Rotation: what is kept, as days, weeks and months go by."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from fixtures.effort import settings_for
from hypothesis import given
from hypothesis import strategies as st

from presgen import DatabaseManager, ValidationError
from presgen.ext import backup
from presgen.ext.backup import Manifest, kept

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
START = datetime(2024, 1, 1, 3, tzinfo=timezone.utc)


def taken(moment: datetime, number: int = 0) -> Manifest:
    return Manifest(f"b{number}-{moment:%Y%m%dT%H%M%S}", "f", "s", 1, moment.isoformat(), "sqlite", 0, "003", {})


def test_a_year_of_nights_leaves_days_weeks_and_months() -> None:
    nights = [taken(START + timedelta(days=day)) for day in range(400)]
    names = kept(nights, daily=7, weekly=4, monthly=12, now=NOW)
    last = [manifest.moment for manifest in nights if manifest.name in names]
    assert last[-7:] == [nights[day].moment for day in range(393, 400)]
    months = {(moment.year, moment.month) for moment in last}
    assert len(months) == 12
    weeks = {moment.isocalendar()[:2] for moment in last}
    assert weeks >= {found.moment.isocalendar()[:2] for found in nights[-22:]}
    assert len(names) <= 7 + 4 + 12


def test_the_last_of_a_day_is_kept() -> None:
    hours = [taken(START + timedelta(hours=hour)) for hour in range(69)]  # from 3 o'clock on, for three days
    names = kept(hours, daily=2, weekly=0, monthly=0, now=NOW)
    assert names == {hours[68].name, hours[44].name}
    assert (hours[68].moment.hour, hours[44].moment.hour) == (23, 23)


@settings_for(short=100, full=5000)
@given(
    hours=st.lists(st.integers(0, 24 * 500), max_size=60, unique=True),
    daily=st.integers(0, 10),
    weekly=st.integers(0, 10),
    monthly=st.integers(0, 10),
)
def test_what_is_kept_stays_kept_and_the_latest_always_is(
    hours: list[int], daily: int, weekly: int, monthly: int
) -> None:
    manifests = [taken(START + timedelta(hours=hour)) for hour in hours]
    names = kept(manifests, daily=daily, weekly=weekly, monthly=monthly, now=NOW)
    assert len(names) <= max(1, daily + weekly + monthly)
    if manifests:
        assert max(manifests, key=lambda manifest: manifest.moment).name in names
    remaining = [manifest for manifest in manifests if manifest.name in names]
    assert kept(remaining, daily=daily, weekly=weekly, monthly=monthly, now=NOW) == names
    days = sorted({manifest.moment.date() for manifest in manifests}, reverse=True)[:daily]
    assert {manifest.moment.date() for manifest in remaining} >= set(days)


def test_a_backup_of_the_future_counts_for_nothing() -> None:
    nights = [taken(START + timedelta(days=day)) for day in range(3)]
    wrong = taken(NOW + timedelta(days=1))
    assert kept([*nights, wrong], daily=2, weekly=0, monthly=0, now=NOW) == {
        nights[1].name,
        nights[2].name,
        wrong.name,
    }


def test_old_backups_are_removed_from_the_folder(db: DatabaseManager, folder: Path) -> None:
    made = [backup.create(db, folder) for _ in range(3)]
    assert [found.name for found in backup.rotate(folder, daily=1, dry_run=True)] == [found.name for found in made[:2]]
    assert len(backup.backups(folder)) == 3
    assert len(backup.rotate(folder, daily=1)) == 2
    assert [found.name for found in backup.backups(folder)] == [made[2].name]
    assert {file.name for file in folder.glob("presgen-*")} == {made[2].file, f"{made[2].name}.json"}
    assert backup.rotate(folder, daily=0, weekly=0, monthly=0) == []


def test_counts_that_make_no_sense_are_refused(folder: Path) -> None:
    for counts in ({"daily": -1}, {"weekly": True}, {"monthly": "x"}):
        with pytest.raises(ValidationError):
            backup.rotate(folder, **counts)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        backup.rotate(folder)
