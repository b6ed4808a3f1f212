"""Tokens: who is let in, who is not, and what becomes of a token."""

from __future__ import annotations

import pickle
import threading
import uuid
from datetime import datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased, sessionmaker

from platform_db import crypto, errors, settings, tokens
from platform_db.crypto.token_format import generate
from platform_db.models import (
    AuditLog,
    InteractiveSession,
    StatusChange,
    User,
    UserToken,
    UserTokenLastUse,
    UserTokenStatus,
    UserTokenType,
)
from tests.factories import make_user

pytestmark = pytest.mark.usefixtures("secret_key")

OLD, NEW = (crypto.generate_key() for _ in range(2))

A_MINUTE_AGO = sa.text("UPDATE platform.user_token_last_use SET last_used_at = now() - interval '61 s'")


def use_keys(monkeypatch: pytest.MonkeyPatch, *keys: str) -> None:
    monkeypatch.setenv("PLATFORM_DB_SECRET_KEY", ",".join(keys))
    settings.reset_settings()


def audit(session: Session) -> list[tuple[str, uuid.UUID]]:
    of_tokens = sa.select(AuditLog).where(AuditLog.action.like("%_token")).order_by(AuditLog.created)
    return [(row.action, row.user_id) for row in session.scalars(of_tokens)]


def expire(session: Session, value: str) -> None:
    tokens.find_token(session, value).expires_at = sa.func.now() - timedelta(seconds=1)
    session.commit()


def test_a_token_lets_its_user_in(session: Session) -> None:
    user = make_user(session)
    value = tokens.issue(session, user, type_="personal", name="laptop", scopes=["read", "run"])
    session.commit()
    found = tokens.authenticate(session, value, scopes=["read"])
    assert (found.user_id, found.type_, found.name) == (user.id_, UserTokenType.personal, "laptop")
    assert found.scopes == {"read", "run"}
    assert found.expires_at is None
    assert found.token_id == tokens.find_token(session, value).id_


def test_an_identity_is_frozen_and_light(session: Session) -> None:
    found = tokens.authenticate(session, tokens.issue(session, make_user(session)))
    with pytest.raises(AttributeError):
        found.user_id = uuid.uuid4()  # type: ignore[misc]
    assert not hasattr(found, "__dict__")


def test_the_errors_are_told_apart_inside_and_not_outside(session: Session) -> None:
    user = make_user(session)
    revoked, expired, scoped = (
        tokens.issue(session, user, type_="personal", name=name, scopes=["read"]) for name in "abc"
    )
    tokens.revoke(session, tokens.find_token(session, revoked))
    expire(session, expired)
    refusals = {}
    for value in (generate("access"), "the-platforms-own", revoked, expired, scoped, scoped[:-1]):
        with pytest.raises(errors.AuthenticationError) as refusal:
            tokens.authenticate(session, value, scopes=["write"])
        refusals[type(refusal.value)] = refusal.value
    assert set(refusals) == {
        errors.UnknownToken,
        errors.RevokedToken,
        errors.ExpiredToken,
        errors.MissingScope,
        errors.MalformedToken,
    }
    assert {str(refusal) for refusal in refusals.values()} == {"the token is not accepted"}
    assert len({refusal.code for refusal in refusals.values()}) == 5
    assert refusals[errors.RevokedToken].user_id == user.id_
    copy = pickle.loads(pickle.dumps(refusals[errors.RevokedToken]))
    assert copy.token_id == refusals[errors.RevokedToken].token_id


def test_another_active_token_of_the_user_does_not_help(session: Session) -> None:
    user = make_user(session)
    first = tokens.issue(session, user)
    tokens.revoke(session, user.active_token)
    second = tokens.issue(session, user)
    assert tokens.authenticate(session, second)
    with pytest.raises(errors.RevokedToken):
        tokens.authenticate(session, first)


def test_a_requested_token_lets_nobody_in_even_with_a_value(session: Session) -> None:
    user = make_user(session)
    tokens.request(session, user).token = "early"
    session.commit()
    with pytest.raises(errors.UnknownToken):
        tokens.authenticate(session, "early")


@pytest.mark.parametrize(
    ("scopes", "needed", "enough"),
    [
        ([], [], True),
        ([], ["read"], False),
        (["read"], ["read"], True),
        (["read"], "read", True),
        (["read"], ["read", "write"], False),
        (["*"], ["read", "write"], True),
        (["read"], ["*"], False),
    ],
)
def test_scopes_are_what_is_listed_and_nothing_else(
    session: Session, scopes: list[str], needed: list[str], enough: bool
) -> None:
    value = tokens.issue(session, make_user(session), type_="webhook", scopes=scopes)
    if enough:
        assert tokens.authenticate(session, value, scopes=needed)
    else:
        with pytest.raises(errors.MissingScope):
            tokens.authenticate(session, value, scopes=needed)


def test_an_access_token_is_for_everything_unless_said_otherwise(session: Session) -> None:
    value = tokens.issue(session, make_user(session))
    assert tokens.authenticate(session, value, scopes=["anything"])
    other = tokens.issue(session, make_user(session, access_token="own"), type_="webhook")
    assert tokens.authenticate(session, "own", scopes=["anything"])
    with pytest.raises(errors.MissingScope):
        tokens.authenticate(session, other, scopes=["anything"])


def test_without_a_key_nobody_gets_in_and_the_rest_works(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = make_user(session, access_token="own")
    monkeypatch.delenv("PLATFORM_DB_SECRET_KEY")
    settings.reset_settings()
    with pytest.raises(errors.SecretKeyError, match="no secret key is configured"):
        tokens.authenticate(session, "own")
    (listed,) = tokens.list_tokens(session, user).rows
    assert [use.rows for use in tokens.key_uses(session)] == [1]
    assert tokens.revoke(session, listed)


def test_a_mistyped_token_asks_no_database() -> None:
    with pytest.raises(errors.MalformedToken):
        tokens.authenticate(Session(), "pdb_a0")


# -- last use


def test_use_is_noted_at_most_once_a_minute(session: Session) -> None:
    user = make_user(session)
    value = tokens.issue(session, user)
    session.commit()
    (token,) = tokens.list_tokens(session, user).rows
    assert token.last_used_at is None
    seen = []
    for wait_a_minute in (False, False, True):
        if wait_a_minute:
            session.execute(A_MINUTE_AGO)
        tokens.authenticate(session, value)
        session.commit()
        seen.append(session.scalar(sa.select(UserTokenLastUse.last_used_at)))
    assert seen[0] is not None
    assert seen[0] == seen[1] != seen[2]


def test_noting_the_use_waits_for_nobody(session: Session, session_factory: sessionmaker[Session]) -> None:
    value = tokens.issue(session, make_user(session))
    session.commit()
    with session_factory() as other, session_factory() as third:
        tokens.authenticate(other, value)
        third.execute(sa.text("SELECT FROM platform.user_token FOR UPDATE"))
        session.execute(sa.text("SET LOCAL lock_timeout = 100"))
        assert tokens.authenticate(session, value)
        session.commit()
        third.rollback()
        other.rollback()


def test_a_transaction_that_cannot_write_can_authenticate(session: Session) -> None:
    value = tokens.issue(session, make_user(session))
    session.commit()
    session.execute(sa.text("SET TRANSACTION READ ONLY"))
    assert tokens.authenticate(session, value)
    assert tokens.authenticate(session, value)


def test_the_look_up_is_one_statement_and_reads_by_index(session: Session) -> None:
    value = tokens.issue(session, make_user(session))
    tokens.authenticate(session, value)
    session.commit()
    statements = []
    sa.event.listen(session.get_bind(), "before_cursor_execute", lambda *event: statements.append(event[2]))
    tokens.authenticate(session, value)
    assert len(statements) == 1
    scans = sa.text(
        "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE relname LIKE 'user\\_token%'"
    )
    session.commit()
    session.execute(sa.text("SET LOCAL enable_seqscan = off"))  # a table of one row would be read as a whole
    tokens.authenticate(session, value)
    assert dict(session.execute(scans).all()) == {"user_token": 0, "user_token_last_use": 0}


def test_a_value_that_two_tokens_have_lets_nobody_in(
    session: Session, secret_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_keys(monkeypatch, OLD)
    make_user(session, access_token="brought along")
    use_keys(monkeypatch, NEW)
    make_user(session, access_token="brought along")
    assert tokens.authenticate(session, "brought along")
    use_keys(monkeypatch, NEW, OLD)
    with pytest.raises(errors.UnknownToken):
        tokens.authenticate(session, "brought along")


# -- issuing


def test_a_value_is_given_out_once_and_kept_sealed(session: Session) -> None:
    user = make_user(session)
    value = tokens.issue(session, user)
    session.commit()
    token = tokens.find_token(session, value)
    assert user.access_token == token.token == value
    assert value.encode() not in bytes(token.encrypted_token)
    assert audit(session) == [("grant_token", user.id_)]


def test_a_second_active_access_token_is_refused_and_the_transaction_goes_on(session: Session) -> None:
    user = make_user(session)
    tokens.issue(session, user)
    for make in (tokens.issue, tokens.grant, tokens.request):
        with pytest.raises(errors.TokenError, match="has already an active access token"):
            make(session, user)
    assert tokens.issue(session, user.id_, type_="webhook")
    session.commit()


def test_request_grant_and_revoke_leave_their_rows(session: Session) -> None:
    user, admin = make_user(session), make_user(session)
    requested = tokens.request(session, str(user.id_))
    with pytest.raises(errors.TokenError, match="has already requested an access token"):
        tokens.request(session, user)
    value = tokens.grant(session, user, actor_id=admin.id_)
    assert user.active_token is requested
    assert tokens.revoke(session, requested, reason="left", actor_id=admin.id_)
    assert not tokens.revoke(session, requested.id_)
    session.commit()
    assert requested.status is UserTokenStatus.revoked
    assert [action for action, _ in audit(session)] == ["request_token", "grant_token", "revoke_token"]
    last = session.scalars(sa.select(AuditLog).order_by(AuditLog.created.desc())).first()
    assert last.actor_id == admin.id_
    assert last.details == {"token_id": str(requested.id_), "reason": "left"}
    history = session.scalars(sa.select(StatusChange.to_status).order_by(StatusChange.revision)).all()
    assert history == ["active", "revoked"]
    with pytest.raises(errors.RevokedToken):
        tokens.authenticate(session, value)


def test_an_expired_token_makes_room_for_a_new_one(session: Session) -> None:
    user = make_user(session)
    for arguments in ({}, {"type_": "personal", "name": "laptop"}):
        old = tokens.issue(session, user, expires_in=timedelta(hours=1), **arguments)
        assert tokens.authenticate(session, old).expires_at is not None
        expire(session, old)
        new = tokens.issue(session, user, **arguments)
        assert tokens.authenticate(session, new).user_id == user.id_
        with pytest.raises(errors.RevokedToken):
            tokens.authenticate(session, old)


def test_an_expired_token_can_be_given_more_time(session: Session) -> None:
    user = make_user(session)
    value = tokens.issue(session, user, expires_in=timedelta(hours=1))
    expire(session, value)
    token = tokens.find_token(session, value)
    token.expires_at = datetime.now(timezone.utc) + timedelta(hours=1)
    session.commit()
    assert tokens.authenticate(session, value).user_id == user.id_


def test_more_time_for_one_token_and_another_in_its_place_are_not_given_at_once(session: Session) -> None:
    user = make_user(session)
    value = tokens.issue(session, user, expires_in=timedelta(hours=1))
    expire(session, value)
    old = tokens.find_token(session, value)
    old.expires_at = datetime.now(timezone.utc) + timedelta(hours=1)
    new = UserToken(owner_id=user.id_, type_=UserTokenType.access, status=UserTokenStatus.active, token="new")
    session.add(new)
    with pytest.raises(errors.TokenError, match="already an active access token"):
        session.flush()


def test_what_a_flush_of_tokens_ends_says_why(session: Session) -> None:
    user = make_user(session)
    value = tokens.issue(session, user, expires_in=timedelta(hours=1))
    expire(session, value)
    old = tokens.find_token(session, value)
    user.access_token = "another"
    session.flush()
    assert old.status is UserTokenStatus.revoked
    change = session.scalars(sa.select(StatusChange).where(StatusChange.to_status == "revoked")).one()
    assert change.reason == "expired"


def test_a_token_can_be_given_by_its_user_alone(session: Session) -> None:
    user = make_user(session)
    session.add(UserToken(user=user, type_="access", status="active", token="handed out"))
    session.commit()
    assert tokens.authenticate(session, "handed out").user_id == user.id_


def test_what_cannot_be_issued_is_refused(session: Session) -> None:
    user = make_user(session)
    with pytest.raises(errors.UserNotFound):
        tokens.issue(session, uuid.uuid4())
    with pytest.raises(errors.TokenError, match="needs a name"):
        tokens.issue(session, user, type_="personal")
    with pytest.raises(errors.InvalidArgument, match="last for some time"):
        tokens.issue(session, user, expires_in=timedelta(0))
    with pytest.raises(errors.TokenError, match="scope has no name"):
        tokens.issue(session, user, scopes=[""])
    with pytest.raises(errors.MalformedToken):
        tokens.issue(session, user, value="pdb_a-mistyped-one")
    tokens.issue(session, user, type_="personal", name="laptop")
    with pytest.raises(errors.TokenError, match="personal token of this name"):
        tokens.issue(session, user, type_="personal", name="laptop")
    with pytest.raises(errors.NotFound):
        tokens.revoke(session, uuid.uuid4())
    session.commit()
    assert len(tokens.list_tokens(session, user).rows) == 1


def test_a_value_of_the_platforms_own_is_accepted_once(session: Session) -> None:
    first, second = make_user(session), make_user(session)
    assert tokens.issue(session, first, value="brought along") == "brought along"
    with pytest.raises(errors.TokenError, match="in use already"):
        tokens.issue(session, second, value="brought along")
    assert tokens.authenticate(session, "brought along").user_id == first.id_
    session.commit()


def test_an_interactive_session_gets_a_secret_the_same_way(session: Session) -> None:
    owner = make_user(session)
    notebook = InteractiveSession(name="notebook", path="/notebook", owner_id=owner.id_)
    session.add(notebook)
    secret = tokens.issue_interactive_session_secret(session, notebook)
    session.commit()
    assert secret.startswith("pdb_i")
    assert notebook.secret == secret
    assert tokens.find_interactive_session(session, secret) is notebook
    with pytest.raises(errors.UnknownToken):
        tokens.authenticate(session, secret)
    again = tokens.issue_interactive_session_secret(session, notebook)
    with pytest.raises(errors.UnknownToken):
        tokens.find_interactive_session(session, secret)
    assert tokens.find_interactive_session(session, again) is notebook


# -- expiry and purge


def test_a_token_that_came_revoked_is_purged_when_it_is_old(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    session.add(
        UserToken(owner_id=make_user(session).id_, type_="webhook", status="revoked", token="imported")
    )
    session.commit()
    assert tokens.purge(session_factory, revoked_for=timedelta(hours=1)) == 0
    assert tokens.purge(session_factory, revoked_for=timedelta()) == 1


def test_expired_tokens_are_revoked_and_long_revoked_ones_purged(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    user = make_user(session)
    values = [tokens.issue(session, user, type_="webhook") for _ in range(5)]
    expire(session, values[0])
    expire(session, values[1])
    assert tokens.revoke_expired(session_factory, batch=1) == 2
    assert tokens.revoke_expired(session_factory) == 0
    assert tokens.purge(session_factory, revoked_for=timedelta(days=1)) == 0
    session.execute(sa.text("UPDATE platform.status_change SET at = now() - interval '2 days'"))
    tokens.revoke(session, tokens.find_token(session, values[2]))
    session.commit()
    assert tokens.purge(session_factory, revoked_for=timedelta(days=1), batch=1) == 2
    session.expire_all()
    statuses = [token.status for token in tokens.list_tokens(session, user).rows]
    assert sorted(statuses) == ["active", "active", "revoked"]
    actions = [action for action, _ in audit(session)]
    assert actions[5:] == ["revoke_token"] * 3 + ["purge_token"] * 2
    with pytest.raises(errors.UnknownToken):
        tokens.authenticate(session, values[0])


# -- races


@pytest.mark.parametrize("way", ["grant", "attribute"])
def test_of_many_grants_at_once_exactly_one_is_left(
    session: Session, session_factory: sessionmaker[Session], way: str
) -> None:
    user_id = make_user(session).id_
    barrier, outcomes = threading.Barrier(8), []

    def grant() -> None:
        with session_factory() as other:
            user = other.get(User, user_id)
            assert user.active_token is None
            barrier.wait()
            try:
                if way == "grant":
                    tokens.grant(other, user)
                else:
                    user.access_token = generate("access")
                other.commit()
                outcomes.append("granted")
            except errors.TokenError as error:
                assert "has already an active access token" in str(error)
                outcomes.append("refused")

    threads = [threading.Thread(target=grant) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["granted"] + ["refused"] * 7
    active = sa.select(sa.func.count()).where(UserToken.status == "active")
    assert session.scalar(active) == 1


@pytest.mark.parametrize("keys", [(OLD,), (NEW, OLD)])
@pytest.mark.parametrize("way", ["grant", "attribute"])
def test_a_granted_value_is_not_replaced_by_whoever_saw_the_request_only(
    session: Session,
    session_factory: sessionmaker[Session],
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    keys: tuple[str, ...],
) -> None:
    use_keys(monkeypatch, OLD)
    user = make_user(session)
    tokens.request(session, user)
    session.commit()
    requested = user.latest_access_token
    assert (user.access_token_status, requested.token) == ("requested", None)
    with session_factory() as other:
        seen_by_other = other.get(User, user.id_)
        if way == "grant":
            tokens.grant(other, user.id_, value="handed out")
        else:
            seen_by_other.access_token = "handed out"
        other.commit()
    use_keys(monkeypatch, *keys)
    requested.token, requested.status = "another", UserTokenStatus.active
    with pytest.raises(errors.TokenError, match="has already an active access token"):
        session.commit()
    session.rollback()
    with pytest.raises(errors.TokenError, match="has already an active access token"):
        user.access_token = "another"
    assert tokens.authenticate(session, "handed out").user_id == user.id_


def test_a_token_that_was_granted_keeps_its_value(session: Session) -> None:
    value = tokens.issue(session, make_user(session), type_="webhook")
    session.commit()
    token = tokens.find_token(session, value)
    digest = crypto.get_key_ring().digest("another")
    for write in (
        lambda: setattr(token, "token", "another"),
        lambda: session.execute(sa.update(UserToken).values(token_digest=digest)),
        lambda: session.execute(
            sa.update(UserToken).values(status="revoked", encrypted_token=None, token_digest=None)
        ),
    ):
        with pytest.raises(errors.TokenError, match="keeps its value"):
            write()
            session.flush()
        session.rollback()
    assert tokens.authenticate(session, value)


def test_a_token_is_found_by_its_value_in_any_query(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, other = make_user(session, access_token="own"), make_user(session, access_token="other's")
    requested = tokens.request(session, make_user(session))
    session.commit()
    token, others = user.active_token, other.active_token
    found = session.scalars
    assert found(sa.select(UserToken).where(UserToken.token == "own")).all() == [token]
    assert found(sa.select(UserToken).filter_by(token="own", status="active")).all() == [token]
    assert session.query(User).join(User.tokens).filter_by(token="other's").all() == [other]
    named = aliased(UserToken)
    assert found(sa.select(User).join(named, User.tokens).where(named.token == "own")).all() == [user]
    assert set(found(sa.select(UserToken).where(UserToken.token.in_(["own", "other's"])))) == {token, others}
    assert found(sa.select(UserToken).where(UserToken.token != "own")).all() == [others]
    assert found(sa.select(UserToken.id_).filter_by(token=None)).all() == [requested.id_]
    for unknown in ("nobody's", "", "pdb_mistyped", "\ud800"):
        assert found(sa.select(UserToken).filter_by(token=unknown)).all() == [], unknown
    use_keys(monkeypatch, NEW, settings.get_settings().secret_key.get_secret_value())
    assert found(sa.select(UserToken).filter_by(token="own")).all() == [token]


def test_a_value_that_a_query_compares_is_no_parameter(session: Session) -> None:
    query = sa.select(UserToken).where(UserToken.token == "open sesame").compile()
    assert "open sesame" not in f"{query} {query.params}"
    with pytest.raises(errors.InvalidArgument, match="equality alone"):
        UserToken.token.like("open%")
    with pytest.raises(errors.InvalidArgument, match="texts alone"):
        UserToken.token == b"open sesame"  # noqa: B015
    with pytest.raises(sa.exc.ArgumentError):
        sa.select(UserToken.token)


def test_the_value_in_a_query_is_found_by_the_index(session: Session) -> None:
    session.execute(sa.text("SET LOCAL enable_seqscan = off"))
    query = sa.select(UserToken.id_).where(UserToken.token == "value")
    compiled = query.compile(session.get_bind(), compile_kwargs={"render_postcompile": True})
    plan = session.connection().exec_driver_sql(f"EXPLAIN {compiled}", compiled.params).scalars()
    assert "uq_user_token_token_digest" in "\n".join(plan)


def test_an_interactive_session_is_found_by_its_secret_in_a_query(session: Session) -> None:
    owner = make_user(session)
    notebook = InteractiveSession(name="n", path="/n", owner_id=owner.id_, secret="open sesame")
    session.add_all([notebook, InteractiveSession(name="m", path="/m", owner_id=owner.id_)])
    session.commit()
    query = sa.select(InteractiveSession).filter_by(owner_id=owner.id_, secret="open sesame")
    assert session.scalars(query).all() == [notebook]
