"""Reading the audit log, adding actions to it, exporting and pruning it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from fixtures.rows import Enqueue
from fixtures.waiting import wait_until

from presgen import DatabaseManager, PresentationJob, User, ValidationError, VoiceClone
from presgen.errors import ConfigurationError
from presgen.ext import audit
from presgen.ext.audit import log as audit_log


def now() -> datetime:
    return datetime.now(timezone.utc)


def just_after_the_last() -> datetime:
    """A moment between the last entry and the next; SQLite's clock has milliseconds."""
    last = audit.search(limit=1)[0].at
    wait_until(lambda: now() > last + timedelta(milliseconds=2))
    return last + timedelta(milliseconds=1)


def about(entries: list[audit.AuditEntry]) -> list[tuple[str, str | None, int | None]]:
    return [(entry.operation, entry.table_name or entry.action, entry.row_id) for entry in entries]


def saved() -> User:
    return User(id=1, name="Ada")


BAD_ARGUMENTS: tuple[tuple[Callable[[], Any], str], ...] = (
    (lambda: audit.action(""), "name must not be empty"),
    (lambda: audit.action("x" * 256), "name must be at most 255 characters"),
    (lambda: audit.action("x", user="ada"), "user must be a whole number, not str"),
    (lambda: audit.action("x", user=User(name="new")), "user must be a whole number, not NoneType"),
    (lambda: audit.action("x", what=object()), "details must be a finite JSON value"),
    (lambda: audit.action("x", what=float("nan")), "details must be a finite JSON value"),
    (lambda: audit.action("x", what="\0"), "details must not contain the NUL character"),
    (lambda: audit.history(User(name="new")), "row_id must be a whole number, not NoneType"),
    (lambda: audit.history(User), "row_id must be a whole number, not NoneType"),
    (lambda: audit.history(7, 7), "row must be text, not int"),
    (lambda: audit.history(saved(), 7), "an instance has an id of its own"),
    (lambda: audit.search(actr="ada"), "there is no condition 'actr'; known are actor, user, table, row_id, operation"),
    (lambda: audit.search(row_id="1"), "row_id must be a whole number, not str"),
    (lambda: audit.search(transaction_id="1"), "transaction_id must be a whole number, not str"),
    (lambda: audit.search(database_user=1), "database_user must be text, not int"),
    (lambda: audit.export(io.StringIO(), actr="ada"), "there is no condition 'actr'"),
    (lambda: audit.search(actor=7), "actor must be text, not int"),
    (lambda: audit.search(table=7), "table must be text, not int"),
    (lambda: audit.search(operation="update"), "operation must be one of INSERT, UPDATE, DELETE, TRUNCATE, ACTION"),
    (lambda: audit.search(operation=[]), "operation must be one of"),
    (lambda: audit.search(since=datetime(2026, 1, 1)), "since must be an aware datetime"),
    (lambda: audit.search(until="yesterday"), "until must be a datetime, not str"),
    (lambda: audit.search(limit=-1), "limit must be a whole number from 0 to 10000"),
    (lambda: audit.search(after="x"), "after must be an AuditEntry or its cursor"),
    (lambda: audit.search(after=User(name="x")), "after must be an AuditEntry or its cursor"),
    (lambda: audit.export(io.StringIO(), limit=3), "there is no condition 'limit'"),
    (lambda: audit.prune(before="2026"), "before must be a datetime, not str"),
    (lambda: audit.prune(before=now() + timedelta(hours=1)), "before must not lie in the future"),
)


def test_an_entry_tells_on_whose_behalf(db: DatabaseManager) -> None:
    ada = User.create(name="Ada")
    with db.acting_as(ada, actor="support"):
        User.update(name="Ada L.").execute()
        audit.action("login", address="192.0.2.1", tries=[1, None, True])
    audit.action("logout", user=ada)
    with db.acting_as(actor="nightly"):
        audit.action("report", user=99)
    report, logout, login, renamed, created = audit.search()
    assert [(entry.user_id, entry.actor) for entry in (report, logout, login, renamed, created)] == [
        (99, "nightly"),
        (ada.id, None),
        (ada.id, "support"),
        (ada.id, "support"),
        (None, None),
    ]
    assert (login.action, login.details) == ("login", {"address": "192.0.2.1", "tries": [1, None, True]})
    assert (logout.details, logout.table_name, logout.row_id, logout.old, logout.new) == ({}, None, None, None, None)
    assert now() - timedelta(minutes=1) < created.at <= renamed.at <= login.at <= now() + timedelta(seconds=1)


def test_reading_and_adding_an_action_is_one_statement_each(db: DatabaseManager, user: User) -> None:
    for use in (lambda: audit.action("login"), audit.search, lambda: audit.history(user)):
        seen: list[Any] = []
        db.database.query_hooks.append(seen.append)
        use()
        db.database.query_hooks.pop()
        assert len(seen) == 1


def test_entries_of_one_transaction_have_its_id(db: DatabaseManager, postgresql: str) -> None:
    with db.transaction():
        (xid,) = db.database.execute_sql("SELECT pg_current_xact_id()::text::bigint").fetchone()
        User.create(name="Ada")
        audit.action("signup")
        (role,) = db.database.execute_sql("SELECT session_user").fetchone()
    User.create(name="Eve")
    assert [entry.transaction_id for entry in audit.search()[1:]] == [xid, xid]
    assert [entry.operation for entry in audit.search(transaction_id=xid)] == ["ACTION", "INSERT"]
    assert len(audit.search(database_user=role)) == 3
    assert audit.search(database_user="somebody") == []


def test_a_rows_history_is_told_oldest_first(db: DatabaseManager, user: User, voice: VoiceClone) -> None:
    eve = User.create(name="Eve")
    user.name = "Ada L."
    user.save()
    told = [("INSERT", "users", user.id), ("UPDATE", "users", user.id)]
    assert about(audit.history(user)) == told
    user.delete_instance()
    told.append(("DELETE", "users", user.id))
    for row in ((user,), (User, user.id), ("users", user.id)):
        assert about(audit.history(*row)) == told
    assert about(audit.history(eve)) == [("INSERT", "users", eve.id)]
    assert audit.history(PresentationJob, 1) == []


def test_a_search_meets_all_of_its_conditions(db: DatabaseManager, enqueue: Enqueue) -> None:
    with db.acting_as(7, actor="one"):
        enqueue()
    between = just_after_the_last()
    with db.acting_as(8, actor="two"):
        enqueue()
        audit.action("login")
        PresentationJob.update(priority=5).execute()
    assert {entry.actor for entry in audit.search(actor="one")} == {"one"}
    assert {entry.user_id for entry in audit.search(user=8)} == {8}
    assert about(audit.search(actor="two", table=PresentationJob, operation="INSERT")) == [
        ("INSERT", "presentation_jobs", 2)
    ]
    assert about(audit.search(action="login")) == about(audit.search(operation="ACTION")) == [("ACTION", "login", None)]
    assert audit.search(action="login", user=7) == []
    assert about(audit.search(table="presentation_jobs", row_id=2, operation="INSERT")) == [
        ("INSERT", "presentation_jobs", 2)
    ]
    assert len(audit.search(table=PresentationJob, row_id=2)) == 2
    later, earlier = audit.search(since=between), audit.search(until=between)
    assert (len(later), len(earlier)) == (4, 3)
    assert [entry.id for entry in [*later, *earlier]] == [entry.id for entry in audit.search()]
    bound = later[1].at
    assert later[1] in audit.search(since=bound)
    assert later[1] not in audit.search(until=bound)


def test_pages_go_on_where_the_page_before_ended(db: DatabaseManager) -> None:
    with db.transaction():
        for number in range(7):
            audit.action(f"a{number}")
    whole = [entry.id for entry in audit.search()]
    pages, after = [], None
    for _ in range(3):
        page = audit.search(limit=3, after=after)
        pages.append([entry.id for entry in page])
        after = page[-1]
    assert audit.search(limit=3, after=after) == []
    assert [number for page in pages for number in page] == whole
    assert audit.search(limit=3, after=audit.search(limit=3)[-1].cursor)[0].id == pages[1][0]


def test_a_page_is_read_from_an_index(db: DatabaseManager, postgresql: str) -> None:
    db.database.execute_sql(
        """
        INSERT INTO audit_log (at, operation, table_name, row_id, user_id, actor)
        SELECT now() - n * interval '1 minute', 'UPDATE', CASE n %% 2 WHEN 0 THEN 'users' ELSE 'voice_clones' END,
            n %% 500, n %% 100, 'a' || n %% 100
        FROM generate_series(1, 20000) AS n
        """
    )
    db.database.execute_sql("ANALYZE audit_log")
    seen: list[Any] = []
    db.database.query_hooks.append(seen.append)
    conditions: list[dict[str, Any]] = [{}, {"until": now()}, {"actor": "a1"}, {"user": 1}, {"table": "users"}]
    for chosen in conditions:
        audit.search(**chosen)
    audit.history(User, 42)
    db.database.query_hooks.pop()
    assert len(seen) == 6
    for event in seen:
        plan = db.database.execute_sql("EXPLAIN " + event.sql, event.params).fetchall()
        assert "idx_audit_log" in str(plan)
        assert "Seq Scan" not in str(plan)


def test_a_history_beside_many_actions_reads_an_index(db: DatabaseManager, postgresql: str) -> None:
    ada = User.create(name="Ada")
    db.database.execute_sql(
        "INSERT INTO audit_log (operation, action) SELECT 'ACTION', 'login' FROM generate_series(1, 20000)"
    )
    db.database.execute_sql("ANALYZE audit_log")
    seen: list[Any] = []
    db.database.query_hooks.append(seen.append)
    audit.history(ada)
    audit.search(action="logout")
    db.database.query_hooks.pop()
    plans = [str(db.database.execute_sql("EXPLAIN " + event.sql, event.params).fetchall()) for event in seen]
    assert "idx_audit_log_row" in plans[0]
    assert "idx_audit_log_action" in plans[1]


def test_a_name_may_have_a_percent_sign(db: DatabaseManager, postgresql: str) -> None:
    db.database.execute_sql('CREATE TABLE "sale 50%%" (id bigint PRIMARY KEY, "off %%" int)')
    db.install("audit", tables="sale 50%", exclude="sale 50%.off %")
    db.database.execute_sql('INSERT INTO "sale 50%%" VALUES (1, 2)')
    assert [entry.new for entry in audit.search()] == [{"id": 1}]


def test_a_bad_argument_is_refused_by_name(db: DatabaseManager) -> None:
    for use, said in BAD_ARGUMENTS:
        with pytest.raises(ValidationError, match=said):
            use()
    assert audit.search() == []


def test_an_export_is_the_search_as_lines_of_json(db: DatabaseManager, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(audit_log, "_EXPORT_PAGE", 2)
    with db.acting_as(7):
        for number in range(5):
            User.create(name=f"Ada {number}")
    audit.action("login")
    target = tmp_path / "log.jsonl"
    assert audit.export(target, actor="user 7") == 5
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["new"]["name"] for line in lines] == [f"Ada {number}" for number in (4, 3, 2, 1, 0)]
    entry = audit.search(actor="user 7")[0]
    assert lines[0] == {**entry.as_dict(), "at": entry.at.isoformat()}
    stream = io.StringIO()
    assert audit.export(stream) == 6
    assert len(stream.getvalue().splitlines()) == 6


def test_an_export_that_fails_leaves_the_former_file(db: DatabaseManager, tmp_path: Path) -> None:
    target = tmp_path / "log.jsonl"
    target.write_text("former\n")
    with pytest.raises(ValidationError):
        audit.export(target, since="yesterday")
    db.uninstall("audit")
    with pytest.raises(ConfigurationError, match="no audit log"):
        audit.export(target)
    assert [path.name for path in tmp_path.iterdir() if "log" in path.name] == ["log.jsonl"]
    assert target.read_text() == "former\n"


def test_an_export_is_for_its_owner_alone(db: DatabaseManager, tmp_path: Path) -> None:
    target = tmp_path / "log.jsonl"
    assert audit.export(target) == 0
    assert target.stat().st_mode & 0o777 == 0o600
    for missing in (tmp_path / "no" / "log.jsonl", str(tmp_path / "no" / "log.jsonl")):
        with pytest.raises(FileNotFoundError, match="no/log.jsonl'$"):
            audit.export(missing)


def test_pruning_deletes_what_is_older_in_batches_and_records_that(db: DatabaseManager, monkeypatch: Any) -> None:
    monkeypatch.setattr(audit_log, "PRUNE_BATCH", 2)
    for number in range(5):
        User.create(name=f"Ada {number}")
    before = just_after_the_last()
    User.create(name="Eve")
    assert audit.prune(before=before) == 5
    *pruned, kept = audit.search()
    assert kept.new["name"] == "Eve"
    assert [(entry.action, entry.details["entries"]) for entry in pruned] == [("audit.prune", n) for n in (1, 2, 2)]
    assert pruned[0].details["before"] == before.isoformat()
    assert audit.prune(before=before) == 0
    assert len(audit.search()) == 4


def test_a_log_that_was_pruned_whole_counts_on(db: DatabaseManager) -> None:
    User.create(name="Ada")
    (entry,) = audit.search()
    audit.prune(before=just_after_the_last())
    assert [found.id > entry.id for found in audit.search()] == [True]


def test_pruning_is_part_of_the_callers_transaction(db: DatabaseManager) -> None:
    User.create(name="Ada")
    with pytest.raises(ZeroDivisionError), db.transaction():
        assert audit.prune(before=just_after_the_last()) == 1
        raise ZeroDivisionError
    assert about(audit.search()) == [("INSERT", "users", 1)]


def test_writers_at_the_same_time_leave_a_history_in_the_order_of_their_writes(db: DatabaseManager) -> None:
    ada = User.create(name="0")
    together = threading.Barrier(4)

    def write(who: int) -> None:
        together.wait(10)
        with db.session():
            for number in range(10):
                User.update(name=f"{who}.{number}").where(User.id == ada.id).execute()

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    created, *updates = audit.history(ada)
    assert len(updates) == 40
    before = created
    for update in updates:
        assert update.old["name"] == before.new["name"]
        assert update.at >= before.at
        before = update
    assert before.new["name"] == User.get_by_id(ada.id).name
