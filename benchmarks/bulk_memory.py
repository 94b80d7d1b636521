"""A process that loads so many jobs from a generator, and tells its peak of resident memory, in bytes."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from presgen import DatabaseManager, PresentationJob

from .bulk import rows


def peak_bytes() -> int:
    """The peak of this process; Linux's getrusage() tells its parent's if that was higher."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    url, number = sys.argv[1:]
    with DatabaseManager(url):
        added = PresentationJob.enqueue_many(rows(int(number)))
    print(json.dumps({"added": added, "peak": peak_bytes()}))
