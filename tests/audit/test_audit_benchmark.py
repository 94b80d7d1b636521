"""benchmarks/audit.py runs, and measures an audited database beside a plain one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "audit.py"


def test_the_benchmark_prints_a_line_for_every_kind_of_write() -> None:
    done = subprocess.run([sys.executable, BENCHMARK, "--quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _, _, *lines = done.stdout.splitlines()
    figures = {line[:16].strip(): [float(figure) for figure in line[16:].split()] for line in lines}
    assert list(figures) == ["single insert", "single update", "heartbeat", "bulk (COPY)"]
    for plain, _, audited, _, ratio, _ in figures.values():
        assert plain > 0
        assert abs(audited - plain * ratio) <= ratio + 0.01 * plain + 1
