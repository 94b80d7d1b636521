"""At many rows a search reads the index and not the table, for everybody, also under tenancy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from fixtures.servers import Server
from fixtures.tenants import Tenancy

from presgen import DatabaseConfig, DatabaseManager, PresentationJob, User, VoiceClone
from presgen.ext import search
from presgen.ext.search.functions import RANKED_MAX
from presgen.roles import create, plan

JOBS, OWNERS = 40_000, 20
TEMPLATE = "presgen_searched"
_FILL = """
INSERT INTO presentation_jobs
    (owner_id, voice_clone_id, s3_pptx_path, s3_video_path, status, started_at, completed_at, created_at)
SELECT v.owner_id, v.id, '/decks/' || md5(n::text) || '/talk-' || n || '.pptx', '/videos/' || n || '.mp4',
    'completed', now(), now(), now() - n * interval '1 second'
FROM generate_series(1, %s) AS n JOIN voice_clones AS v ON v.id = 1 + n %% %s
"""
_SCANS = """
SELECT pg_stat_get_xact_numscans('idx_presentation_jobs_search'::regclass),
    pg_stat_get_xact_numscans('presentation_jobs'::regclass), pg_stat_get_xact_tuples_fetched('presentation_jobs'::regclass)
"""


def fill(manager: DatabaseManager) -> None:
    for number in range(OWNERS):
        owner = User.create(name=f"Owner {number}")
        VoiceClone.create(name="v", s3_path=f"/voices/{number}.wav", owner=owner)
    manager.database.execute_sql(_FILL, (JOBS, OWNERS))


@pytest.fixture
def filled(postgresql: str, servers: dict[str, Server], new_database: Callable[..., str]) -> Iterator[DatabaseManager]:
    """A copy of a database with many jobs, which is made once a server."""
    server = servers[postgresql]
    if TEMPLATE not in server.created:
        server.execute(f"DROP DATABASE IF EXISTS {TEMPLATE}", f"CREATE DATABASE {TEMPLATE}")
        server.created.append(TEMPLATE)
        with DatabaseManager(replace(DatabaseConfig(server.admin_url_of(TEMPLATE)), pgbouncer=False)) as manager:
            manager.migrate()
            fill(manager)
            manager.install("search")
    with DatabaseManager(new_database(TEMPLATE)) as manager:
        yield manager


def read_by(manager: DatabaseManager, look: Callable[[], list[Any]]) -> tuple[int, int, int, int]:
    """How often a search scans the index, how often the whole table, how many rows it fetches, and how many it finds."""
    with manager.transaction():
        before = manager.database.execute_sql(_SCANS).fetchone()
        hits = look()
        after = manager.database.execute_sql(_SCANS).fetchone()
    index, table, rows = (now - then for then, now in zip(before, after, strict=True))
    return index, table, rows, len(hits)


def read_in_both_orders(manager: DatabaseManager, query: str, **options: Any) -> list[tuple[int, int, int, int]]:
    return [
        read_by(manager, lambda order=order: search.jobs(query, order=order, **options)) for order in ("rank", "newest")
    ]


def test_a_selective_search_reads_the_index(filled: DatabaseManager) -> None:
    for query in ("talk 777", '"talk 777"', "talk-777*", "777 OR 778", "talk 777 -778"):
        for index, table, rows, found in read_in_both_orders(filled, query):
            assert (index, table) == (1, 0), query
            assert 1 <= found <= rows <= 200


def test_a_word_of_many_reads_the_newest_alone(filled: DatabaseManager) -> None:
    for query in ("talk", "7*", "talk OR mp4"):
        for _, table, rows, found in read_in_both_orders(filled, query):
            assert (table, found) == (0, 20), query
            assert rows < JOBS / 4


def test_rare_and_old_words_are_not_looked_for_row_by_row(filled: DatabaseManager) -> None:
    for query in ("zzz*", "talk-1*", '"talk 2"*', "zzz* OR nosuchword"):
        for index, table, _, _ in read_in_both_orders(filled, query):
            assert (index, table) == (1, 0), query
    for query in ("zzz*", "zzz* OR nosuchword", '"talk 39999"*'):
        assert all(rows <= 200 for _, _, rows, _ in read_in_both_orders(filled, query))


def test_no_more_than_the_newest_thousand_are_ranked(filled: DatabaseManager) -> None:
    assert len(search.jobs("talk", limit=2_000)) == RANKED_MAX
    assert len(search.jobs("talk", limit=2_000, order="newest")) == 2_000


def test_an_owners_rows_are_found_by_the_same_index(filled: DatabaseManager) -> None:
    for index, table, rows, found in read_in_both_orders(filled, "mp4 77*", owner=7, limit=100):
        assert (index, table) == (1, 0)
        assert found <= rows <= 200  # and not those of all owners


def test_a_page_further_on_reads_the_index_too(filled: DatabaseManager) -> None:
    page = search.jobs("77*", limit=10)
    assert read_by(filled, lambda: search.jobs("77*", limit=10, after=page[-1]))[:2] == (1, 0)


@pytest.fixture
def tenants(with_roles: Tenancy) -> Tenancy:
    """Tenancy and search, with many jobs."""
    with DatabaseManager(replace(DatabaseConfig(with_roles.admin_url), pgbouncer=False)) as admin:
        fill(admin)
        admin.install("tenancy", app=with_roles.roles.app, worker=with_roles.roles.worker)
        admin.install("search")
        create(admin.database, plan(admin.database, with_roles.roles))
    return with_roles


def test_under_tenancy_everybody_finds_their_own_rows_by_the_index(tenants: Tenancy) -> None:
    with tenants.open("app") as app:
        assert search.jobs("talk") == []  # who acts for nobody
        with app.acting_as(7):
            for order in ("rank", "newest"):
                index, table, rows, found = read_by(app, lambda order=order: search.jobs("talk 77*", order=order))
                assert (index, table) == (1, 0)
                assert 1 <= found <= rows <= 200
            assert {hit.row.owner_id for hit in search.jobs("talk", limit=50)} == {7}
            assert search.jobs("talk", owner=8) == []
            assert [hit.row.id for hit in search.users("owner")] == [7]
            assert [hit.row.owner_id for hit in search.voice_clones("voices OR v")] == [7]
            page = search.jobs("talk", limit=5)
            assert not {hit.row.id for hit in page} & {
                hit.row.id for hit in search.jobs("talk", limit=5, after=page[-1])
            }
    with tenants.open("worker") as worker:
        index, table, _, found = read_by(worker, lambda: search.jobs("talk 77*", limit=1000))
        assert (index, table) == (1, 0)
        assert found > OWNERS
        assert len({hit.row.owner_id for hit in search.jobs("talk 77*", limit=1000)}) == OWNERS


def test_a_login_without_rights_learns_nothing(tenants: Tenancy) -> None:
    with tenants.open("nobody") as nobody, pytest.raises(Exception, match="permission denied"), nobody.acting_as(7):
        search.jobs("talk")


def test_search_that_was_there_before_tenancy_stays_right(with_roles: Tenancy) -> None:
    with DatabaseManager(with_roles.admin_url) as admin:
        admin.install("search")
        ada = User.create(name="Ada")
        voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=ada)
        PresentationJob.enqueue(owner=ada, voice_clone=voice, s3_pptx_path="/talk.pptx")
        eve = User.create(name="Eve")
        admin.install("tenancy", app=with_roles.roles.app, worker=with_roles.roles.worker)
        create(admin.database, plan(admin.database, with_roles.roles))
    with with_roles.open("app") as app:
        with app.acting_as(ada):
            assert len(search.jobs("talk")) == 1
        with app.acting_as(eve):
            assert search.jobs("talk") == []
    with DatabaseManager(with_roles.admin_url) as admin:
        for _ in range(2):
            admin.install("search")
    with with_roles.open("app") as app, app.acting_as(ada):
        assert len(search.jobs("talk")) == 1
    with DatabaseManager(with_roles.admin_url) as admin:
        admin.uninstall("tenancy")
        admin.uninstall("search")
        left = admin.database.execute_sql(
            "SELECT proname FROM pg_proc WHERE proname LIKE 'presgen\\_find\\_%%'"
        ).fetchall()
        assert left == []
