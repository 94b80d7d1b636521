"""All features on one database: each keeps what it promises beside the others."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from fixtures.encrypted import keyring
from fixtures.tenants import Tenancy, with_voice_and_job

from presgen import DatabaseConfig, DatabaseManager, JobStatus, User
from presgen.database import PostgresPool
from presgen.errors import ConfigurationError
from presgen.ext import archive, audit, backup, encryption, search, tenancy
from presgen.features import install_feature
from presgen.roles import create, plan


def install_elsewhere(config: DatabaseConfig) -> None:
    """Bring the current index key into force, as another process does: the models stay bound to this one's database."""
    with PostgresPool(config) as database:
        install_feature(database, "encryption")
    database.close_all()


def test_a_users_life_under_all_features(with_roles: Tenancy, tmp_path: Path) -> None:
    config = DatabaseConfig(with_roles.admin_url, encryption_keys=keyring("k1"), index_keys=keyring("i1"))
    roles = with_roles.roles
    with DatabaseManager(config) as owner:
        early = User.create(name="Early", email="early@example.com")
        owner.install("audit")
        User.update(email="earlier@example.com").execute()
        owner.install("tenancy", app=roles.app, worker=roles.worker)
        owner.install("encryption")
        owner.install("archive")
        owner.install("search")
        owner.install("partitions")
        create(owner.database, plan(owner.database, roles))
        assert owner.features() == ["audit", "tenancy", "encryption", "archive", "search", "partitions"]
        assert owner.schema_differences() == []
        assert "example.com" not in str([entry.as_dict() for entry in audit.search()])

    with DatabaseManager(replace(config, url=with_roles.urls["app"])) as app:
        assert tenancy.check(app) == []
        ada = tenancy.sign_up(app, name="Ada", email="Ada@example.com")
        with app.acting_as(ada):
            ada.set_password("correct horse")
            ada.save()
            audit.action("password set")
            assert User.get(email="ada@example.com") == ada
            assert User.get_or_none(User.email == "earlier@example.com") is None
            assert [hit.row for hit in search.users("ada")] == [ada]
            assert search.users("early") == search.users("example") == []
            job = with_voice_and_job(ada)
            job.cancel()
            assert [hit.row for hit in search.jobs("pptx")] == [job]
        assert tenancy.find_user(app, "earlier@example.com") == early.id
        assert tenancy.sign_in(app, "ada@example.com", "correct horse") == ada
        assert tenancy.sign_in(app, "ada@example.com", "wrong") is None
        for use in (encryption.rotate, encryption.key_ids, encryption.verify):
            with pytest.raises(
                ConfigurationError, match="does not see all rows of users: use a login of the worker role"
            ):
                use(app)  # which would tell that an old key is used no more
        assert User.select().count() == 0

    both = replace(config, url=with_roles.urls["app"], index_keys=keyring("i2", "i1"))
    with DatabaseManager(both) as app:
        assert tenancy.find_user(app, "earlier@example.com") == early.id  # and remembers the key for a second
        install_elsewhere(replace(both, url=with_roles.admin_url))
        assert tenancy.find_user(app, "earlier@example.com") == early.id
        assert tenancy.find_user(app, "nobody@example.com") is None

    config = replace(config, index_keys=keyring("i2"))
    rotated = replace(config, url=with_roles.urls["worker"], encryption_keys=keyring("k2", "k1"))
    with DatabaseManager(rotated) as worker:
        assert encryption.rotate(worker) == 2
        assert {user.email for user in User.select()} == {"ada@example.com", "earlier@example.com"}
        assert archive.run(worker, tmp_path / "archive", retention={JobStatus.CANCELLED: timedelta(0)}) == 1
        assert search.jobs("pptx") == []
        assert backup.create(worker, tmp_path / "backups").tables["public.users"].rows == 2
        told = [entry.as_dict() for entry in audit.search()]
    assert {entry["actor"] for entry in told} == {None, f"user {ada.id}", "archive"}
    assert "example.com" not in str(told)
