"""`presgen demo --chaos` kills its own workers, and still makes every video, once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from presgen import DatabaseManager, JobEvent, JobStatus, PresentationJob


def test_every_video_is_made_once_though_workers_are_killed() -> None:
    with TemporaryDirectory(prefix="presgen-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # a server of root's must get through; doing so by itself, it would warn
        words = [sys.executable, "-m", "presgen", "demo", "--chaos", "--jobs", "2", "--folder", name]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        killed = re.findall(r"^chaos: killed worker-\d with job (\d+) at (?!pending)\w+$", done.stderr, re.MULTILINE)
        assert killed
        assert f"chaos: {len(killed)} workers killed, 2 videos made, each once" in done.stdout
        with DatabaseManager(f"embedded:///{folder / 'database'}"):
            jobs = list(PresentationJob.select())
            ends = Counter(event.job_id for event in JobEvent.select() if event.to_status is JobStatus.COMPLETED)
        assert {job.status for job in jobs} == {JobStatus.COMPLETED}
        assert ends == {job.id: 1 for job in jobs}
        # Beside them may lie what a worker had not finished when it was killed.
        assert len({job.s3_video_path for job in jobs}) == len(jobs)
        for job in jobs:
            video = folder / "store" / str(job.s3_video_path).lstrip("/")
            assert video.stat().st_size == job.file_size_bytes
