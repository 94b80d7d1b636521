"""The metrics as Prometheus reads them, in a registry and on the command line."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import prometheus_client
import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from presgen import DatabaseManager, JobStatus, PresentationJob
from presgen.cli import cli
from presgen.ext.prometheus import JobsCollector, exposition

NOWHERE = "postgresql://ada:hunter2@localhost:1/studio"
OPERATIONS = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def db(url: str) -> Iterator[DatabaseManager]:
    """A database that a command in another process sees as well."""
    with DatabaseManager(url) as manager:
        yield manager


def parsed(text: bytes) -> Values:
    """The value of each sample by its name and labels; there is help for all, and none comes twice."""
    families = list(text_string_to_metric_families(text.decode()))
    assert all(family.documentation.endswith(".") and family.type in ("gauge", "counter") for family in families)
    samples = [sample for family in families for sample in family.samples]
    counted = {sample.name for family in families if family.type == "counter" for sample in family.samples}
    assert counted == {sample.name for sample in samples if sample.name.endswith("_total")}
    values = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
    assert len(values) == len(samples)
    return values


def presgen(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="presgen")


def test_the_exposition_has_the_values_of_the_metrics(
    db: DatabaseManager, claimed: PresentationJob, enqueue: Callable[..., PresentationJob]
) -> None:
    enqueue()
    claimed.advance(JobStatus.SYNTHESIZING_AUDIO)
    values, metrics = parsed(exposition(db)), db.metrics()

    assert values["presgen_up", ()] == 1
    assert values["presgen_users", ()] == values["presgen_active_users", ()] == values["presgen_voice_clones", ()] == 1
    assert values["presgen_attempts", ()] == 1
    assert values["presgen_expired_leases", ()] == values["presgen_retrying_jobs", ()] == 0
    assert 0 < values["presgen_oldest_claimable_seconds", ()] < 60
    for status, count in metrics["jobs_by_status"].items():
        assert values["presgen_jobs", (("status", status),)] == count
    stay = metrics["stage_seconds"]["processing_slides"]
    for quantile, key in (("0.5", "p50"), ("0.95", "p95")):
        labels = (("quantile", quantile), ("stage", "processing_slides"))
        assert values["presgen_stage_seconds", labels] == pytest.approx(stay[key])
    assert values["presgen_stage_samples", (("stage", "processing_slides"),)] == 1
    # A stage that no job has left has no quantile, and says so.
    assert values["presgen_stage_samples", (("stage", "assembling_video"),)] == 0
    assert not any(
        name == "presgen_stage_seconds" and ("stage", "assembling_video") in labels for name, labels in values
    )
    assert {labels for name, labels in values if name == "presgen_pool_connections"} == {
        (("state", "in_use"),),
        (("state", "idle"),),
    }
    pool = metrics["pool"]
    assert values["presgen_pool_max_connections", ()] == pool["max_connections"]
    assert (values["presgen_pool_waiting", ()], values["presgen_pool_waited_seconds_total", ()]) == (0, 0)
    for event in ("created", "recycled", "dead", "timeouts"):
        assert values["presgen_pool_events_total", (("event", event),)] == pool[event]
    assert (("presgen_dead_tuples", ()) in values) == (db.config.backend != "sqlite")


def test_an_empty_queue_waits_for_zero_seconds(db: DatabaseManager) -> None:
    values = parsed(exposition(db))

    assert values["presgen_oldest_claimable_seconds", ()] == values["presgen_oldest_pending_seconds", ()] == 0


def test_the_operations_manual_names_every_metric_and_no_other(
    db: DatabaseManager, postgresql: str, claimed: PresentationJob
) -> None:
    claimed.release()
    exported = {name for name, _ in parsed(exposition(db))}
    assert exported == set(re.findall(r"^\| `(presgen_\w+)", OPERATIONS, re.MULTILINE))


def test_a_collector_in_a_registry_asks_at_every_scrape_and_not_before(
    db: DatabaseManager, job: PresentationJob
) -> None:
    asked: list[Any] = []
    db.database.query_hooks.append(asked.append)
    registry = CollectorRegistry(auto_describe=True)
    registry.register(JobsCollector(db))
    assert not asked

    assert parsed(generate_latest(registry))["presgen_jobs", (("status", "pending"),)] == 1
    job.cancel()
    assert parsed(generate_latest(registry))["presgen_jobs", (("status", "pending"),)] == 0


def test_the_collector_of_the_operations_manual_serves_a_scrape(
    url: str, job: PresentationJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setattr(prometheus_client, "REGISTRY", CollectorRegistry())
    section = OPERATIONS.partition("\n## Prometheus\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    block = block.replace('9100, addr="127.0.0.1"', '0, addr="127.0.0.1", registry=REGISTRY')
    scope: dict[str, Any] = {}
    exec(block, scope)
    try:
        for _ in range(2):
            with urlopen(f"http://127.0.0.1:{scope['server'].server_port}/metrics") as answer:
                assert parsed(answer.read())["presgen_jobs", (("status", "pending"),)] == 1
        assert scope["db"].pool_stats()["in_use"] == 0
    finally:
        scope["server"].shutdown()
        scope["server"].server_close()
        scope["thread"].join()
        scope["db"].close()


def test_a_database_that_cannot_be_reached_is_down_and_no_exception(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with DatabaseManager(NOWHERE) as manager:
        assert parsed(exposition(manager)) == {("presgen_up", ()): 0}
    assert "No metrics: cannot connect to postgresql://ada@localhost:1/studio" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_database_without_tables_is_down_and_no_exception(empty_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with DatabaseManager(empty_url) as manager:
        assert parsed(exposition(manager)) == {("presgen_up", ()): 0}
        manager.migrate()
        assert parsed(exposition(manager))["presgen_up", ()] == 1
    assert "No metrics: " in caplog.text


def test_the_command_prints_the_exposition(url: str, job: PresentationJob) -> None:
    result = presgen("--database", url, "metrics", "--prometheus")

    assert (result.exit_code, result.stderr) == (0, "")
    assert parsed(result.stdout_bytes)["presgen_jobs", (("status", "pending"),)] == 1


def test_the_command_answers_for_a_dead_server_and_says_why() -> None:
    command = [sys.executable, "-m", "presgen", "--database", NOWHERE, "metrics", "--prometheus"]
    done = subprocess.run(command, capture_output=True, check=True)

    assert parsed(done.stdout) == {("presgen_up", ()): 0}
    assert b"is the server running" in done.stderr
    assert b"hunter2" not in done.stderr


def test_json_and_prometheus_cannot_be_had_together(url: str) -> None:
    result = presgen("--database", url, "metrics", "--prometheus", "--json")

    assert result.exit_code == 2
    assert result.stderr.startswith("Error: --json and --prometheus cannot be had together; see: ")


def test_without_its_library_the_extra_is_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from presgen.cli import main\n"
        "sys.argv[1:] = ['--database', 'sqlite:///:memory:', 'metrics', '--prometheus']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)

    assert done.returncode == 1
    assert done.stderr == "Error: prometheus-client is not installed; run: pip install 'presgen[prometheus]'\n"
