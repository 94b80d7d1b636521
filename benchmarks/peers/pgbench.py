"""pgbench with presgen's own statements: what the server and its protocol take, and no Python."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import AsIs

from presgen.embedded import EmbeddedServer


@dataclass(frozen=True)
class Script:
    """A script that claims `batch` jobs and finishes each."""

    text: str
    batch: int

    @classmethod
    def of(cls, claim: Any, finish: Any, job_id: int, batch: int, cursor: Any) -> Script:
        """Of the statement of a claim, which returns the jobs, and of the one that finished the job with that id.

        Values are literals, also those that presgen's prepared statements take as parameters; the job's id alone is a
        variable. What pgbench prepares it prepares once, and presgen anew from time to time.
        """
        into = "gset" if batch == 1 else "aset"  # which keeps the last row, whose id is the highest
        lines = [f"{_literal(claim, cursor)} \\{into}"]
        for back in reversed(range(batch)):
            lines.append(f"\\set job :id - {back}")
            lines.append(f"{_literal(finish, cursor, job_id)};")
        return cls("\n".join(lines) + "\n", batch)

    def run(self, server: EmbeddedServer, url: str, folder: Path, mode: str, jobs: int, *, clients: int = 1) -> float:
        """Seconds for so many jobs in a mode of its protocol, connecting not counted."""
        file = folder / "claim.sql"
        file.write_text(self.text)
        transactions = jobs // self.batch // clients
        command = [server.binary("pgbench"), "-n", "-M", mode, "-c", clients, "-j", clients, "-t", transactions]
        done = subprocess.run([*map(str, command), "-f", str(file), url], capture_output=True, text=True, check=False)
        found = re.search(r"tps = ([0-9.]+)", done.stdout)
        if done.returncode or found is None:
            raise RuntimeError(f"pgbench: {done.stderr.strip()}")
        return transactions * clients / float(found[1])


def _literal(event: Any, cursor: Any, job_id: int | None = None) -> str:
    params = [AsIs(":job") if type(value) is int and value == job_id else value for value in event.params or ()]
    return cursor.mogrify(event.sql, params).decode().strip()  # type: ignore[no-any-return]
