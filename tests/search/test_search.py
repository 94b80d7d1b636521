"""Searching: whose rows, in which order, page by page, with what was found shown; and the index that stays true."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from fixtures.waiting import wait_until

from presgen import DatabaseConfig, DatabaseManager, JobStatus, PresentationJob, User, ValidationError, VoiceClone
from presgen.errors import ConfigurationError
from presgen.ext import search
from presgen.keyring import new_entry

Ids = list[int]


def ids(hits: list[search.Hit[Any]]) -> Ids:
    return [hit.row.id for hit in hits]


@pytest.fixture
def enqueue(owner: User, voice: VoiceClone) -> Callable[[str], PresentationJob]:
    return lambda path: PresentationJob.enqueue(owner=owner, voice_clone=voice, s3_pptx_path=path)  # type: ignore[no-any-return]


def fail(job: PresentationJob, message: str) -> None:
    job.status, job.error_message = JobStatus.FAILED, message
    job.save()


def test_users_voices_and_jobs_are_found(
    db: DatabaseManager, owner: User, voice: VoiceClone, enqueue: Callable[[str], PresentationJob]
) -> None:
    grace = User.create(name="Grace Hopper", email="Grace.H@Example.com")
    clone = VoiceClone.create(name="Deep \u201cradio\u201d", s3_path="/studio/b-7.wav", owner=grace)
    job = enqueue("/decks/compiler.pptx")
    fail(job, "ValueError: slide 7 is empty")
    assert ids(search.users("hopper")) == ids(search.users("grace.h@example.com")) == [grace.id]
    assert ids(search.voice_clones("radio")) == ids(search.voice_clones("studio b")) == [clone.id]
    assert ids(search.jobs("compiler")) == ids(search.jobs('"slide 7"')) == [job.id]
    assert search.users("compiler") == search.jobs("hopper") == []


def test_an_earlier_column_weighs_more(enqueue: Callable[[str], PresentationJob]) -> None:
    in_error, in_path = enqueue("/decks/a.pptx"), enqueue("/decks/budget.pptx")
    fail(in_error, "the budget of tokens is spent")
    for number in range(20):
        enqueue(f"/decks/{number}.pptx")
    best, second = search.jobs("budget")
    assert (best.row.id, second.row.id) == (in_path.id, in_error.id)
    assert best.rank is not None
    assert second.rank is not None
    assert best.rank > second.rank
    assert ids(search.jobs("budget -tokens OR budget -a", order="rank")) == [in_path.id]


def test_pages_follow_each_other_in_both_orders(enqueue: Callable[[str], PresentationJob]) -> None:
    jobs = [enqueue(f"/decks/{'talk ' * (number % 3 + 1)}{number}.pptx") for number in range(25)]
    for number in range(30):
        enqueue(f"/decks/other{number}.pptx")
    for order in ("rank", "newest"):
        whole = ids(search.jobs("talk", order=order, limit=100))
        assert sorted(whole) == [job.id for job in jobs]
        seen: Ids = []
        page = search.jobs("talk", order=order, limit=4)
        while page:
            seen += ids(page)
            last = page[-1]
            after = last if len(seen) % 8 else last.cursor
            page = search.jobs("talk", order=order, limit=4, after=after)
        assert seen == whole
    assert ids(search.jobs("talk", order="newest", limit=100)) == [job.id for job in reversed(jobs)]
    assert search.jobs("talk", limit=0) == []


@pytest.mark.parametrize(
    "options",
    [
        {"order": "best"},
        {"limit": -1},
        {"after": "x"},
        {"after": "nan~1"},
        {"after": "1.0~99999999999999999999"},
        {"after": 7},
        {"order": "newest", "after": "0.5~1"},
        {"owner": "x"},
    ],
)
def test_options_that_make_no_sense_are_refused(db: DatabaseManager, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        search.jobs("talk", **options)


def test_what_was_deleted_softly_or_for_good_is_not_found(
    db: DatabaseManager, voice: VoiceClone, enqueue: Callable[[str], PresentationJob]
) -> None:
    hidden, gone, shown = (enqueue("/decks/talk.pptx") for _ in range(3))
    fail(hidden, "x")
    hidden.soft_delete()
    gone.delete_instance()
    assert ids(search.jobs("talk")) == [shown.id]
    voice.is_active = False
    voice.save()
    assert search.voice_clones("ada") == []
    user = User.create(name="Eve", is_active=False)
    assert search.users("eve") == []
    user.is_active = True
    user.save()
    assert ids(search.users("eve")) == [user.id]


def test_the_index_follows_every_way_of_writing(
    db: DatabaseManager, owner: User, voice: VoiceClone, enqueue: Callable[[str], PresentationJob]
) -> None:
    User.insert_many([{"name": "Bulk One"}, {"name": "Bulk Two"}]).execute()
    assert len(search.users("bulk")) == 2
    User.update(name="Renamed").where(User.name == "Bulk One").execute()
    db.database.execute_sql("UPDATE users SET name = 'Raw' WHERE name = 'Bulk Two'")
    assert search.users("bulk") == []
    assert len(search.users("renamed OR raw")) == 2
    enqueue("/decks/talk.pptx")
    with pytest.raises(ZeroDivisionError), db.transaction():
        enqueue("/decks/undone.pptx")
        raise ZeroDivisionError
    assert search.jobs("undone") == []
    PresentationJob.enqueue_many(
        {"owner": owner, "voice_clone": voice, "s3_pptx_path": f"/decks/many {number}.pptx"} for number in range(3)
    )
    assert len(search.jobs("many")) == 3
    owner.delete_instance()
    assert search.jobs("talk OR many") == search.voice_clones("ada") == []


def test_rows_from_before_the_installation_are_found(url: str) -> None:
    with DatabaseManager(url) as manager:
        User.create(name="Early Bird")
        with pytest.raises(ConfigurationError, match="presgen install search"):
            search.users("bird")
        for _ in range(2):
            manager.install("search")
            assert manager.features() == ["search"]
        assert len(search.users("bird")) == 1
        for _ in range(2):
            manager.uninstall("search")
            assert manager.features() == []
        User.create(name="Late Bird")
        manager.install("search")
        assert len(search.users("bird")) == 2


def test_uninstalling_leaves_no_trace(url: str) -> None:
    with DatabaseManager(url) as manager:
        before = _traces(manager)
        manager.install("search")
        assert _traces(manager) > before
        manager.uninstall("search")
        assert _traces(manager) == before


def _traces(manager: DatabaseManager) -> set[str]:
    if manager.config.url.startswith("sqlite"):
        sql = "SELECT name FROM sqlite_master"
    else:
        sql = "SELECT proname::text FROM pg_proc UNION SELECT relname::text FROM pg_class"
    return {name for (name,) in manager.database.execute_sql(sql).fetchall()}


def test_only_an_owners_rows_are_looked_at(
    db: DatabaseManager, owner: User, enqueue: Callable[[str], PresentationJob]
) -> None:
    other = User.create(name="Eve")
    clone = VoiceClone.create(name="Eve", s3_path="/voices/eve.wav", owner=other)
    theirs = PresentationJob.enqueue(owner=other, voice_clone=clone, s3_pptx_path="/decks/talk.pptx")
    mine = enqueue("/decks/talk.pptx")
    assert ids(search.jobs("talk", owner=owner)) == [mine.id]
    assert ids(search.jobs("talk", owner=other.id, order="newest")) == [theirs.id]
    assert ids(search.voice_clones("voices", owner=other)) == [clone.id]
    assert ids(search.users("eve OR ada", owner=other)) == [other.id]
    assert search.jobs(f"{owner.id}", owner=other) == []
    assert search.jobs("talk", owner=other.id + 1) == []


def test_a_page_takes_a_fixed_number_of_statements(
    db: DatabaseManager, enqueue: Callable[[str], PresentationJob], backend: str
) -> None:
    for _ in range(10):
        enqueue("/decks/talk.pptx")
    seen: list[str] = []
    db.database.query_hooks.append(lambda event: seen.append(event.sql))
    hits = search.jobs("talk")
    assert [hit.row.owner.name for hit in hits] == ["Ada"] * 10
    assert len(seen) == (2 if backend == "sqlite" else 3), seen


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        ("the slide has no notes", "slide notes", "the **slide** has no **notes**"),
        ("The SLIDE\u2014Has", '"slide has"', "The **SLIDE\u2014Has**"),
        ("slides slide sliding", "slid*", "**slides** **slide** **sliding**"),
        ("\u0130stanbul \u00c4rger", "\u00e4rger", "\u0130stanbul **\u00c4rger**"),
        ("a" * 300 + " needle " + "b" * 300, "needle", "\u2026" + "a" * 39 + " **needle** " + "b" * 113 + "\u2026"),
        ("needle " + "b" * 300, "needle", "**needle** " + "b" * 153 + "\u2026"),
    ],
)
def test_a_snippet_shows_what_was_found(
    enqueue: Callable[[str], PresentationJob], text: str, query: str, expected: str
) -> None:
    fail(enqueue("/decks/x.pptx"), text)
    (hit,) = search.jobs(query)
    assert hit.snippet() == expected


def test_a_phrase_ends_with_its_column(db: DatabaseManager) -> None:
    User.create(name="Love", email="lace@example.com")
    assert search.users('"love lace"') == []
    assert len(search.users('love lace -"love lace"')) == 1


def test_words_of_any_length_are_stored_and_found(enqueue: Callable[[str], PresentationJob]) -> None:
    job = enqueue("/decks/x.pptx")
    fail(job, "\u5b63" * 3000 + " " + "y" * 3000)
    assert ids(search.jobs("\u5b63*")) == ids(search.jobs("yyy*")) == [job.id]
    assert search.jobs("\u6587" * 900) == search.jobs("\u6587" * 900 + "*") == []


def test_a_database_of_another_encoding_is_refused(postgresql: str, servers: dict[str, Any], backend: str) -> None:
    server = servers[backend]
    server.execute("CREATE DATABASE presgen_latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        with DatabaseManager(server.url_of("presgen_latin")) as manager:
            manager.migrate()
            with pytest.raises(ConfigurationError, match="search needs a database in UTF-8"):
                manager.install("search")
    finally:
        server.execute("DROP DATABASE presgen_latin WITH (FORCE)")


def test_a_half_built_index_is_not_searched(postgresql: str, db: DatabaseManager) -> None:
    db.database.execute_sql("DROP INDEX idx_users_search")
    with pytest.raises(ConfigurationError, match="presgen install search"):
        search.users("ada")


def test_another_schema_does_not_count(postgresql: str, db: DatabaseManager, url: str) -> None:
    """Tables of presgen's in two schemas, of which one has the feature."""
    for statement in ("CREATE SCHEMA other", "SET search_path = other, public"):
        db.database.execute_sql(statement)
    with db.session():
        db.database.execute_sql("SET search_path = other, public")
        for table in ("users", "voice_clones", "presentation_jobs"):
            db.database.execute_sql(f"CREATE TABLE other.{table} (LIKE public.{table})")
        assert db.features() == []
        with pytest.raises(ConfigurationError, match="presgen install search"):
            search.users("ada")
        db.database.execute_sql("RESET search_path")
        assert db.features() == ["search"]


def test_two_installers_at_once_take_turns(postgresql: str, url: str) -> None:
    with DatabaseManager(DatabaseConfig(url, pool_timeout=30)) as manager:
        User.insert_many([{"name": f"User {number}"} for number in range(2000)]).execute()
        errors: list[BaseException] = []

        def install() -> None:
            try:
                manager.install("search")
                manager.install("notify")
            except BaseException as error:
                errors.append(error)
            finally:
                manager.database.close()

        threads = [threading.Thread(target=install) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert manager.features() == ["notify", "search"]


def test_a_snippet_is_safe_to_show_in_html(enqueue: Callable[[str], PresentationJob]) -> None:
    fail(enqueue("/decks/x.pptx"), "<b>slide</b> & <script>")
    (hit,) = search.jobs("slide")
    expected = "&lt;b&gt;<mark>slide</mark>&lt;/b&gt; &amp; &lt;script&gt;"
    assert hit.snippet("<mark>", "</mark>", escape=html.escape) == expected


def test_a_sealed_address_is_in_no_index(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_ENCRYPTION_KEYS", new_entry("k"))
    monkeypatch.setenv("DATABASE_INDEX_KEYS", new_entry("i"))
    monkeypatch.setenv("DATABASE_URL", url)
    with DatabaseManager.from_env() as manager:
        ada = User.create(name="Ada", email="lovelace@example.com")
        manager.install("search")
        assert ids(search.users("lovelace")) == [ada.id]
        manager.install("encryption")
        assert search.users("lovelace") == search.users("enc") == search.users("k") == []
        (hit,) = search.users("ada")
        assert hit.row.email == "lovelace@example.com"
        if url.startswith("sqlite"):
            words = "SELECT count(*) FROM idx_users_search WHERE idx_users_search MATCH 'lovelace OR enc'"
            assert manager.database.execute_sql(words).fetchone() == (0,)
        manager.uninstall("encryption")
        assert ids(search.users("lovelace")) == [ada.id]


def test_a_heartbeat_does_not_touch_the_index(
    postgresql: str, db: DatabaseManager, enqueue: Callable[[str], PresentationJob]
) -> None:
    enqueue("/decks/talk.pptx")
    (job,) = PresentationJob.claim("w1")
    sql = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'presentation_jobs'"
    with db.transaction():
        before = db.database.execute_sql(sql).fetchone()
        job.heartbeat(progress=0.5)
        after = db.database.execute_sql(sql).fetchone()
    assert [now - then for then, now in zip(before, after, strict=True)] == [1, 1]


def test_a_broken_off_build_is_made_anew(postgresql: str, db: DatabaseManager) -> None:
    db.database.execute_sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_users_search'::regclass")
    assert db.features() == []
    db.install("search")
    assert db.features() == ["search"]


def test_the_index_of_an_older_version_is_built_anew(postgresql: str, db: DatabaseManager) -> None:
    User.create(name="Ada")
    db.database.execute_sql(
        "CREATE OR REPLACE FUNCTION presgen_words(value text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'older' $$"
    )
    db.database.execute_sql("REINDEX INDEX idx_users_search")
    assert search.users("ada") == []
    db.install("search")
    assert len(search.users("ada")) == 1
    index = "SELECT 'idx_users_search'::regclass::oid"
    before = db.database.execute_sql(index).fetchone()
    db.install("search")
    assert db.database.execute_sql(index).fetchone() == before  # which needs no building


def waiting(url: str) -> list[str]:
    """The statements that wait for somebody's lock."""
    with closing(psycopg2.connect(url)) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return [query for (query,) in cursor.fetchall()]


def test_writers_are_not_kept_waiting_while_it_is_built(postgresql: str, url: str) -> None:
    with DatabaseManager(url) as manager:
        User.insert_many([{"name": f"User {number}"} for number in range(3000)]).execute()
        statements: list[str] = []
        manager.database.query_hooks.append(lambda event: statements.append(event.sql))
        with closing(psycopg2.connect(url)) as writer, ThreadPoolExecutor(1) as pool:
            writer.cursor().execute("UPDATE users SET name = 'meanwhile' WHERE id = 1")
            done = pool.submit(manager.install, "search")
            # The build waits for that writer, and nobody else waits for the build.
            wait_until(lambda: any("CREATE INDEX" in sql and "users" in sql for sql in waiting(url)))
            User.update(name="another").where(User.id == 2).execute()
            assert not done.done()
            writer.commit()
            done.result(60)
        assert len(search.users("meanwhile OR another")) == 2
        built = [sql for sql in statements if "CREATE INDEX" in sql and "_search" in sql]
        assert len(built) == 3
        assert all("CONCURRENTLY" in sql for sql in built)


def test_installing_inside_a_transaction_works_too(url: str) -> None:
    with DatabaseManager(url) as manager:
        User.create(name="Ada")
        with manager.transaction():
            manager.install("search")
            assert len(search.users("ada")) == 1
        assert manager.features() == ["search"]
