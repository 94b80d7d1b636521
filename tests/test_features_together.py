"""All features on one database: each keeps what it promises beside the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fixtures.encrypted import keyring
from fixtures.tenants import Tenancy

from presgen import DatabaseConfig, DatabaseManager, User
from presgen.database import PostgresPool
from presgen.errors import ConfigurationError
from presgen.ext import audit, encryption, tenancy
from presgen.features import install_feature
from presgen.roles import create, plan


def install_elsewhere(config: DatabaseConfig) -> None:
    """Bring the current index key into force, as another process does: the models stay bound to this one's database."""
    with PostgresPool(config) as database:
        install_feature(database, "encryption")
    database.close_all()


def test_a_users_life_under_all_features(with_roles: Tenancy) -> None:
    config = DatabaseConfig(with_roles.admin_url, encryption_keys=keyring("k1"), index_keys=keyring("i1"))
    roles = with_roles.roles
    with DatabaseManager(config) as owner:
        early = User.create(name="Early", email="early@example.com")
        owner.install("audit")
        User.update(email="earlier@example.com").execute()
        owner.install("tenancy", app=roles.app, worker=roles.worker)
        owner.install("encryption")
        create(owner.database, plan(owner.database, roles))
        assert owner.features() == ["audit", "tenancy", "encryption"]
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
        told = [entry.as_dict() for entry in audit.search()]
    assert {entry["actor"] for entry in told} == {None, f"user {ada.id}"}
    assert "example.com" not in str(told)
