"""Cores: the client has one half of them and the server the other, and none goes to sleep.

Where one core serves both, who is slower depends on whom the system has just moved; and a virtual machine takes longer
to wake a core up than many a statement takes. So what is awake is measured, as on a machine with work to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SPIN = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
_IS_LINUX = hasattr(os, "SCHED_IDLE")


@contextmanager
def awake() -> Iterator[None]:
    """Give each core something to do that makes way for anything else."""
    cores = sorted(os.sched_getaffinity(0)) if _IS_LINUX else []
    spinning = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in cores]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


@contextmanager
def servers_half() -> Iterator[None]:
    """Start what is started in the block on the second half of the cores; afterwards this process has the first."""
    cores = sorted(os.sched_getaffinity(0)) if _IS_LINUX else []
    if len(cores) < 2:
        yield
        return
    half = len(cores) // 2
    os.sched_setaffinity(0, cores[half:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores[:half])
