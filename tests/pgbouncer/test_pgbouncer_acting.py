"""acting_as() through PgBouncer: clients share the server's connections, and nobody gets what another one carried."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from fixtures.acting import Program, carried_in, left_behind, note_acting

from presgen import DatabaseManager, User

THREADS, ROUNDS = 8, 40


def test_whatever_is_nested_each_write_carries_what_its_innermost_block_says(db: DatabaseManager) -> None:
    note_acting(db)
    for seed in range(40):
        Program(db, seed).run()


def test_clients_that_share_connections_carry_their_own_user_alone(db: DatabaseManager) -> None:
    note_acting(db)
    begin = threading.Barrier(THREADS)

    def work(user: int) -> None:
        begin.wait()
        for number in range(ROUNDS):
            if user % 2:
                with db.acting_as(user):
                    User.create(name=f"{user}")
                    with db.transaction():
                        User.create(name=f"{user}")
            else:
                User.create(name=f"{number}")

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(work, range(THREADS)))
    acting = {(user, f"user {user}"): 2 * ROUNDS for user in range(1, THREADS, 2)}
    assert Counter(carried_in(db)) == {**acting, (None, None): ROUNDS * THREADS // 2}
    assert left_behind(db) == []
