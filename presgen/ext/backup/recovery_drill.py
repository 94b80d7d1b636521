"""A point-in-time recovery, for practice: on servers of its own, with real losses and real times."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import peewee as pw

from ...embedded import EmbeddedServer
from ...errors import BackupError
from ...manager import DatabaseManager
from ...models import PresentationJob, User, VoiceClone

RESTORE_POINT: Final = "before_the_loss"
_ARCHIVED_SECONDS: Final = 60
_RECOVERED_SECONDS: Final = 120

Tell = Callable[[str, float, int | None], None]
"""Called for each step with what was done, its seconds, and the jobs that the database has then, None without one."""


def drill(folder: Path | str, *, jobs: int = 1_000, tell: Tell = lambda *_: None) -> int:
    """Lose jobs, and get back all there were at a restore point; gives how many came back.

    In a folder that is empty or missing: a server whose log is archived (archive_command), a base backup, jobs before
    and after it, a restore point, the loss, and a second server that recovers from base backup and archive up to that
    point. Raises BackupError if a job is missing then, or one too many there.
    """
    root = Path(folder).absolute()
    if root.exists() and any(root.iterdir()):
        raise BackupError(f"{root} is not empty: the drill needs a folder of its own")
    archive = root / "archive"
    archive.mkdir(mode=0o777, parents=True)
    archive.chmod(0o777)  # the server's own account writes there
    root.chmod(0o755)
    steps = _Steps(tell)
    settings = {
        "archive_mode": "on",
        "archive_command": _copy_command(archive, is_archiving=True),
        "wal_level": "replica",
    }
    with EmbeddedServer(root / "primary", settings=settings) as primary, DatabaseManager(primary.url) as manager:
        with steps.step("a database, with jobs"):
            manager.migrate()
            manager.require_binding()  # or it would be somebody else's jobs
            _enqueue(jobs // 2)
        recovered = EmbeddedServer(root / "recovered", settings=_recovery(archive))
        with steps.step("base backup"):
            recovered.fill_from(manager.database.config.connect_parameters())
        with steps.step("more jobs, and the restore point"):
            _enqueue(jobs - jobs // 2)
            manager.database.execute_sql("SELECT pg_create_restore_point(%s)", (RESTORE_POINT,))
            expected = _ids()
        with steps.step("the loss: jobs are deleted, others come in"):
            PresentationJob.delete().where(pw.fn.MOD(PresentationJob.id, 2) == 0).execute()
            _enqueue(10)
        with steps.step("the log is archived"):
            _wait_for_archive(manager)
    with steps.step("recovery", is_running=False):
        (recovered.data / "recovery.signal").touch()
        shutil.chown(recovered.data / "recovery.signal", *_owner_of(recovered.data))
        recovered.start()
    try:
        with DatabaseManager(recovered.url) as manager, steps.step("the recovered server takes writes"):
            _wait_for_promotion(manager)
            found = _ids()
    finally:
        recovered.stop()
    if found != expected:
        missing, extra = len(expected - found), len(found - expected)
        raise BackupError(f"the recovery went wrong: {missing} jobs are missing, and {extra} too many")
    return len(found)


class _Steps:
    """Times the steps."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    @contextmanager
    def step(self, what: str, *, is_running: bool = True) -> Iterator[None]:
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._tell(what, seconds, PresentationJob.select().count() if is_running else None)


def _enqueue(count: int) -> None:
    owner, _ = User.get_or_create(name="Drill")
    voice, _ = VoiceClone.get_or_create(name="Drill", owner=owner, defaults={"s3_path": "/voices/drill.wav"})
    PresentationJob.enqueue_many(
        {"owner": owner, "voice_clone": voice, "s3_pptx_path": f"/decks/{number}.pptx"} for number in range(count)
    )


def _ids() -> set[int]:
    return {job_id for (job_id,) in PresentationJob.select(PresentationJob.id).tuples()}


def _copy_command(archive: Path, *, is_archiving: bool) -> str:
    """The shell command that takes a segment into the archive, whole or not at all, or fetches it from there."""
    kept = f"{shlex.quote(str(archive))}/%f"
    if is_archiving:
        return f"test ! -f {kept} && cp %p {kept}.part && sync {kept}.part && mv {kept}.part {kept}"
    return f"cp {kept} %p"


def _recovery(archive: Path) -> dict[str, str]:
    return {
        "restore_command": _copy_command(archive, is_archiving=False),
        "recovery_target_name": RESTORE_POINT,
        "recovery_target_action": "promote",
    }


def _wait_for_archive(manager: DatabaseManager) -> None:
    """Switch to a new segment, and wait until the former one is in the archive."""
    sql = "SELECT pg_walfile_name(pg_current_wal_lsn())"
    (segment,) = manager.database.execute_sql(sql).fetchone()
    manager.database.execute_sql("SELECT pg_switch_wal()")
    deadline = time.monotonic() + _ARCHIVED_SECONDS
    while True:
        archiver = "SELECT coalesce(last_archived_wal, ''), failed_count FROM pg_stat_archiver"
        last, failures = manager.database.execute_sql(archiver).fetchone()
        if last >= segment:
            return
        if time.monotonic() > deadline:
            raise BackupError(f"{segment} did not get into the archive; archive_command failed {failures} times")
        time.sleep(0.1)


def _wait_for_promotion(manager: DatabaseManager) -> None:
    """Wait until the server has come to the restore point, and is a primary."""
    deadline = time.monotonic() + _RECOVERED_SECONDS
    while manager.database.execute_sql("SELECT pg_is_in_recovery()").fetchone()[0]:
        if time.monotonic() > deadline:
            raise BackupError("the recovered server does not come to the restore point; see its server.log")
        time.sleep(0.1)


def _owner_of(path: Path) -> tuple[Any, Any]:
    return path.stat().st_uid, path.stat().st_gid
