"""Moving secrets to another key: while others use either, killed and run again, and what cannot be moved."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import crypto, errors, settings, tokens
from platform_db.health.secret_keys import SECRETS, require_secret_keys
from platform_db.models import AuditLog, InteractiveSession, UserToken
from platform_db.models.audit import NOBODY
from platform_db.tenancy import tenant_scope
from platform_db.tokens.keys import secret_columns
from tests.factories import make_user
from tests.tenants import prepare_roles

OLD, NEW, OTHER = (crypto.generate_key() for _ in range(3))


def key_id(key: str) -> str:
    return crypto.KeyRing.parse(key).newest.id_.hex()


@pytest.fixture
def use_keys(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    def use(*keys: str) -> None:
        monkeypatch.setenv("PLATFORM_DB_SECRET_KEY", ",".join(keys))
        settings.reset_settings()

    use(OLD)
    yield use
    settings.reset_settings()


def test_every_secret_moves_and_nobody_notices(
    session: Session, session_factory: sessionmaker[Session], use_keys
) -> None:
    user = make_user(session)
    values = [tokens.issue(session, user, type_="webhook") for _ in range(25)]
    notebook = InteractiveSession(name="n", path="/n", owner_id=user.id_)
    session.add(notebook)
    secret = tokens.issue_interactive_session_secret(session, notebook)
    tokens.request(session, user)
    session.commit()
    use_keys(NEW, OLD)
    values.append(tokens.issue(session, user, type_="webhook"))
    session.commit()
    steps = []
    rotation = tokens.rotate(session_factory, batch=10, progress=lambda *step: steps.append(step))
    assert (rotation.key_id, rotation.rotated, rotation.remaining) == (key_id(NEW), 26, 0)
    assert steps[-1] == (26, 26)
    assert tokens.rotate(session_factory).rotated == 0
    use_keys(NEW)
    session.expire_all()
    assert {tokens.authenticate(session, value).user_id for value in values} == {user.id_}
    assert {token.token for token in tokens.list_tokens(session, user).rows} == {*values, None}
    assert tokens.find_interactive_session(session, secret).secret == secret
    assert {use.key_id for use in tokens.key_uses(session)} == {key_id(NEW)}
    (row,) = session.scalars(sa.select(AuditLog).where(AuditLog.action == "rotate_keys"))
    assert (row.user_id, row.details) == (NOBODY, {"key_id": key_id(NEW), "secrets": 26})


def test_a_missing_key_is_named_and_nothing_is_changed(
    session: Session, session_factory: sessionmaker[Session], use_keys
) -> None:
    make_user(session, access_token="own")
    before = session.execute(sa.text("SELECT token, xmin FROM platform.user_token")).one()
    session.commit()
    use_keys(NEW, OTHER)
    with pytest.raises(errors.SecretKeyError, match=f"key with id {key_id(OLD)}, which is not configured"):
        tokens.rotate(session_factory)
    assert session.execute(sa.text("SELECT token, xmin FROM platform.user_token")).one()[1] == before[1]
    states = {key.key_id: key.state for key in tokens.report_keys(session).keys}
    assert states == {key_id(NEW): "newest", key_id(OTHER): "unused", key_id(OLD): "missing"}


def test_a_keys_secrets_of_every_column_are_counted(session: Session, use_keys) -> None:
    use_keys(NEW)
    owner = make_user(session, access_token="own")
    notebook = InteractiveSession(name="n", path="/n", owner_id=owner.id_)
    session.add(notebook)
    session.flush()
    tokens.issue_interactive_session_secret(session, notebook)
    (key,) = tokens.report_keys(session).keys
    assert (key.secrets, key.state) == (2, "newest")


def test_missing_keys_are_found_among_all_secrets_by_index(session: Session, use_keys) -> None:
    assert {column.table: column.name for column in secret_columns()} == SECRETS
    owner = make_user(session)
    tokens.request(session, owner)
    require_secret_keys(session.connection())
    make_user(session, access_token="one")
    use_keys(OTHER)
    session.add(InteractiveSession(name="n", path="/n", owner_id=owner.id_, secret="two"))
    session.commit()
    use_keys(NEW, OTHER)
    make_user(session, access_token="three")
    with pytest.raises(errors.SecretKeyError, match=f"with id {key_id(OLD)}, which is not configured"):
        require_secret_keys(session.connection())
    use_keys(OLD)
    missing = ", ".join(sorted([key_id(OTHER), key_id(NEW)]))
    with pytest.raises(errors.SecretKeyError, match=missing):
        require_secret_keys(session.connection())
    use_keys(OLD, OTHER, NEW)
    session.commit()
    session.execute(sa.text("SET LOCAL enable_seqscan = off"))  # A table of three rows is read as a whole.
    scans = sa.text(
        "SELECT sum(seq_scan) FROM pg_stat_xact_user_tables"
        " WHERE relname IN ('user_token', 'interactive_session')"
    )
    before = session.execute(scans).scalar()  # PostgreSQL 15 counts transactions of a moment ago, too.
    require_secret_keys(session.connection())
    assert session.execute(scans).scalar() == before


def test_locked_rows_are_left_for_the_next_run(
    session: Session, session_factory: sessionmaker[Session], use_keys
) -> None:
    user = make_user(session)
    first, second = (tokens.issue(session, user, type_="webhook") for _ in range(2))
    session.commit()
    use_keys(NEW, OLD)
    with session_factory() as other:
        tokens.revoke(other, tokens.find_token(other, first))
        rotation = tokens.rotate(session_factory)
        assert (rotation.rotated, rotation.remaining) == (1, 1)
        other.commit()
    assert tokens.rotate(session_factory).rotated == 1
    assert tokens.authenticate(session, second)


@pytest.mark.parametrize("batch", [1, 500])
def test_what_was_altered_is_reported_and_the_rest_moves(
    session: Session, session_factory: sessionmaker[Session], use_keys, batch: int
) -> None:
    user = make_user(session)
    broken, fine = (
        tokens.find_token(session, tokens.issue(session, user, type_="webhook")) for _ in range(2)
    )
    sealed = bytes(broken.encrypted_token)
    broken.encrypted_token = sealed[:-1] + bytes([sealed[-1] ^ 1])
    session.commit()
    use_keys(NEW, OLD)
    rotation = tokens.rotate(session_factory, batch=batch)
    assert (rotation.rotated, rotation.remaining) == (1, 0)
    assert list(rotation.failed) == [f"user_token.token:{broken.id_}"]
    session.expire_all()
    assert fine.token is not None


def test_a_value_is_unique_under_both_keys(
    session: Session, session_factory: sessionmaker[Session], use_keys
) -> None:
    first, second = make_user(session), make_user(session)
    tokens.issue(session, first, value="brought along")
    session.commit()
    use_keys(NEW, OLD)
    with pytest.raises(errors.TokenError, match="in use already"):
        tokens.issue(session, second, value="brought along")
    second.access_token = "brought along"
    with pytest.raises(errors.TokenError, match="in use already"):
        session.flush()
    session.rollback()
    tokens.issue(session, second, value="another")
    session.commit()
    use_keys(OLD, NEW)
    with pytest.raises(errors.TokenError, match="in use already"):
        tokens.issue(session, first, type_="webhook", value="another")


def test_a_value_is_unique_across_tenants_under_both_keys(
    session: Session, engine: sa.Engine, use_keys
) -> None:
    prepare_roles(engine)
    ann, bob = make_user(session), make_user(session, access_token="brought along")
    notebook = InteractiveSession(name="n", path="/n", owner_id=bob.id_, secret="open sesame")
    session.add(notebook)
    session.commit()
    use_keys(NEW, OLD)
    for write in (
        lambda own: tokens.issue(own, ann.id_, type_="webhook", value="brought along"),
        lambda own: own.add(
            InteractiveSession(name="n", path="/ann", owner_id=ann.id_, secret="open sesame")
        ),
    ):
        with pytest.raises(errors.TokenError, match="in use already"), tenant_scope(engine, ann) as own:
            write(own)
    assert tokens.authenticate(session, "brought along").user_id == bob.id_
    assert tokens.find_interactive_session(session, "open sesame") is notebook


def test_two_with_one_value_that_were_written_apart_are_reported(
    session: Session, session_factory: sessionmaker[Session], use_keys
) -> None:
    make_user(session, access_token="brought along")
    use_keys(NEW)
    make_user(session, access_token="brought along")
    fine = make_user(session, access_token="fine")
    use_keys(NEW, OLD)
    rotation = tokens.rotate(session_factory)
    (reason,) = rotation.failed.values()
    assert (rotation.rotated, rotation.remaining, reason) == (0, 0, "this value is in use already")
    assert fine.access_token == "fine"


def test_a_batch_that_was_killed_leaves_every_value_readable(
    session: Session, session_factory: sessionmaker[Session], use_keys
) -> None:
    user = make_user(session)
    values = [tokens.issue(session, user, type_="webhook") for _ in range(30)]
    session.commit()
    use_keys(NEW, OLD)

    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        raise Killed

    for rotated in (10, 20):
        with pytest.raises(Killed):
            tokens.rotate(session_factory, batch=10, progress=kill)
        uses = {use.key_id: use.rows for use in tokens.key_uses(session)}
        assert uses == {key_id(NEW): rotated, key_id(OLD): 30 - rotated}
        assert all(tokens.authenticate(session, value) for value in values)
        session.commit()
    assert tokens.rotate(session_factory, batch=10).rotated == 10
    assert session.scalar(sa.select(sa.func.count()).select_from(UserToken)) == 30
