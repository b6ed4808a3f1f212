"""A value, in clear or encrypted, is nowhere but where it belongs; what was altered is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import subprocess
import traceback
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from platform_db import crypto, database, embedded, errors, tokens, users
from platform_db.audit import record_action
from platform_db.crypto.token_format import generate
from platform_db.lifecycle.transitions import override_guard
from platform_db.models import AuditLog, InteractiveSession, StatusChange, UserToken
from tests.factories import make_user

pytestmark = pytest.mark.usefixtures("secret_key")


def forms(value: str, token: UserToken) -> list[str]:
    """Return how a value, its ciphertext and its digest could look in a text."""
    sealed = [bytes(token.encrypted_token), bytes(token.token_digest)]
    return [
        value,
        *(
            form
            for data in sealed
            for form in (data.hex(), repr(data)[2:-1][:60], str(base64.b64encode(data)))
        ),
    ]


def test_nothing_that_is_logged_shown_or_raised_holds_a_value(
    database_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = io.StringIO()
    engine = database.create_engine(database_uri, echo="debug")
    with orm.Session(engine) as session:
        user = make_user(session)
        value = tokens.issue(session, user)
        own = tokens.issue(session, user, type_="webhook", value="brought along by the platform")
        session.commit()
        session.expire_all()
        stored = [(v, tokens.find_token(session, v)) for v in (value, own)]
        shown = [token for _, token in stored]
        seen.write(f"{shown!r} {shown!s} {user!r} {[vars(token) for token in shown]}")
        seen.write(repr(tokens.authenticate(session, value)))
        secrets = [form for v, token in stored for form in forms(v, token)]
        statements = (
            lambda: tokens.issue(session, user, type_="webhook", value=own),
            lambda: session.add(
                UserToken(owner_id=user.id_, type_="personal", status="active", token=generate("personal"))
            ),
            lambda: session.execute(sa.update(UserToken).values(token_digest=b"short")),
            lambda: session.execute(
                sa.insert(UserToken).values(
                    id_=uuid.uuid4(), user_id=user.id_, type_="webhook", status="active",
                    encrypted_token=stored[0][1].encrypted_token, token_digest=stored[0][1].token_digest,
                )
            ),
            lambda: tokens.authenticate(session, value[:-1]),
            lambda: tokens.authenticate(session, own, scopes=["write"]),
            lambda: session.execute(sa.text("SELECT CAST(:value AS bytea) FROM nowhere"), {"value": value}),
        )  # fmt: skip
        session.commit()
        for statement in statements:
            with pytest.raises((errors.PlatformDBError, sa.exc.DBAPIError)) as refusal:
                statement()
                session.flush()
            session.rollback()
            seen.write("".join(traceback.format_exception(refusal.value)) + repr(refusal.value))
        rows = session.scalars(sa.select(AuditLog)).all()
        seen.write(str([(row.action, row.details) for row in rows]))
        seen.write(str(session.execute(sa.select(StatusChange.reason)).all()))
    seen.write(caplog.text)
    assert "INSERT INTO platform.user_token" in caplog.text
    assert "<sealed>" in caplog.text
    text = seen.getvalue()
    assert [secret for secret in secrets if secret in text] == []
    engine.dispose()


def test_what_was_sealed_is_not_printed(session: Session) -> None:
    token = tokens.find_token(session, tokens.issue(session, make_user(session)))
    for sealed in (token.encrypted_token, token.token_digest):
        assert {str(sealed), repr(sealed), f"{sealed}", "%s" % sealed} == {"<sealed>"}  # noqa: UP031


def test_a_value_in_a_text_that_is_kept_is_refused(session: Session) -> None:
    user = make_user(session)
    value = tokens.issue(session, user)
    session.commit()
    token = tokens.find_token(session, value)
    text = f"leak of {value}: revoke"

    def override() -> None:
        with override_guard(session, reason=text):
            pass

    for keep in (
        lambda: tokens.revoke(session, token, reason=text),
        lambda: record_action(session, user, "revoke_token", {"seen": [{"in": text}]}),
        lambda: user.log_action("revoke_token", {value: True}),
        override,
    ):
        with pytest.raises(errors.TokenInText) as refusal:
            keep()
        assert value not in "".join(traceback.format_exception(refusal.value))
    session.commit()
    assert token.status == "active"
    actions = session.scalars(sa.select(AuditLog.action).order_by(AuditLog.created)).all()
    assert actions == ["create_user", "grant_token"]
    for look_up in (lambda: users.find_user(session, value), lambda: tokens.revoke(session, value)):
        with pytest.raises(errors.PlatformDBError, match="pdb_…") as refusal:
            look_up()
        assert value not in str(refusal.value)


def test_the_same_value_has_two_ciphertexts_and_one_digest(secret_key: str) -> None:
    ring = crypto.get_key_ring()
    first, second = (ring.encrypt("same", "user_token.token:1") for _ in range(2))
    assert first != second
    assert ring.digest("same") == ring.digest("same")


def test_what_was_altered_moved_or_cut_is_refused(session: Session) -> None:
    one, other = make_user(session, access_token="one"), make_user(session, access_token="other")
    notebook = InteractiveSession(name="n", path="/n", owner_id=one.id_, secret="third")
    session.add(notebook)
    session.commit()
    sealed = bytes(one.active_token.encrypted_token)
    altered = [
        sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :]
        for position in range(5, len(sealed))
    ]
    cut = [sealed[:length] for length in (0, 4, 16, 32, len(sealed) - 1)]
    for wrong in (*altered, *cut, b"\x02" + sealed[1:]):
        one.active_token.encrypted_token = wrong
        with pytest.raises(errors.DecryptionError):
            _ = one.access_token
    other.active_token.encrypted_token = sealed
    notebook.encrypted_secret = sealed
    for read in (lambda: other.access_token, lambda: notebook.secret):
        with pytest.raises(errors.DecryptionError):
            read()
    one.active_token.encrypted_token = sealed[:1] + bytes.fromhex("deadbeef") + sealed[5:]
    with pytest.raises(errors.SecretKeyError, match="key with id deadbeef is not configured"):
        _ = one.access_token


def test_a_dump_holds_no_value_and_nothing_that_verifies_a_guess(
    database_uri: str, session: Session, secret_key: str, tmp_path: Path
) -> None:
    user = make_user(session)
    values = [tokens.issue(session, user, type_="webhook") for _ in range(100)]
    session.commit()
    for value in values[:10]:
        tokens.authenticate(session, value)
    session.commit()
    dump = tmp_path / "dump.sql"
    uri = database.normalise_url(database_uri).set(drivername="postgresql")
    subprocess.run(
        [embedded.binary("pg_dump"), "--inserts", "-f", dump, uri.render_as_string(hide_password=False)],
        check=True, capture_output=True,
    )  # fmt: skip
    text = dump.read_text()
    assert text.count("INSERT INTO platform.user_token VALUES") == 100
    raw = base64.b64decode(secret_key)
    for value in values:
        body = value[5:48]
        assert body not in text
        assert value not in text
        for data in (value.encode(), body.encode(), value[5:].encode()):
            for algorithm in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b", "sha3_256"):
                digest = hashlib.new(algorithm, data)
                assert digest.hexdigest() not in text
                assert base64.b64encode(digest.digest()).decode() not in text
    assert raw.hex() not in text
    assert secret_key not in text
    other_ring = crypto.KeyRing.parse(crypto.generate_key())
    assert not any(other_ring.digest(value).hex() in text for value in values)
    assert crypto.get_key_ring().digest(values[0]).hex() in text
