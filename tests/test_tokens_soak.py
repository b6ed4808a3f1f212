"""Many processes on the same tokens: briefly in every run, and for long with ``--soak``."""

from __future__ import annotations

import base64
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import crypto, database, errors, settings, tokens
from platform_db.database.session import PlatformSession
from platform_db.models import User, UserToken, UserTokenStatus, UserTokenType
from tests.factories import make_user
from tests.processes import in_processes

# Constants: the processes import this module, too.
OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))

ACTIVE = """
SELECT count(*) FROM platform.user_token WHERE type_ = 'access' AND status = 'active' GROUP BY owner_id
"""


def use_keys(*keys: str) -> None:
    os.environ["PLATFORM_DB_SECRET_KEY"] = ",".join(keys)
    settings.reset_settings()


# -- request, grant, revoke and authenticate at random


def live(uri: str, key: str, user_ids: list[uuid.UUID], seconds: float, number: int) -> None:
    """Do at random what may be done with the users' tokens, and check what must always hold."""
    use_keys(key)
    dice, known = random.Random(number), []
    engine = database.create_engine(uri, pool_size=1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with PlatformSession(engine) as session:
            user = session.get(User, dice.choice(user_ids))
            action = dice.choice(("request", "grant", "attribute", "revoke", "authenticate", "count"))
            try:
                if action == "request":
                    tokens.request(session, user)
                elif action == "grant":
                    known.append(tokens.grant(session, user))
                elif action == "attribute":
                    user.access_token = str(uuid.uuid4())
                elif action == "count":
                    assert set(session.scalars(sa.text(ACTIVE))) <= {1}
                elif action == "revoke":
                    rows = session.scalars(user.tokens.select())
                    open_ = [token for token in rows if token.status is not UserTokenStatus.revoked]
                    for token in open_:
                        tokens.revoke(session, token)
                    session.commit()
                    values = [token.token for token in open_ if token.token]
                    for value in values:
                        with pytest.raises(errors.RevokedToken):
                            tokens.authenticate(session, value)
                elif known:
                    check_one(session, dice.choice(known[-20:]))
                session.commit()
            except (errors.TokenError, errors.InvalidTransition):
                session.rollback()
    engine.dispose()


def check_one(session: Session, value: str) -> None:
    """A token that was revoked before the look-up began is not let in."""
    token = tokens.find_token(session, value)
    revoked_before = token.status is UserTokenStatus.revoked
    try:
        tokens.authenticate(session, value)
        assert not revoked_before, "a revoked token was let in"
    except errors.RevokedToken:
        pass


def live_together(uri: str, session: Session, processes: int, seconds: float) -> None:
    user_ids = [make_user(session).id_ for _ in range(5)]
    in_processes(processes, live, uri, os.environ["PLATFORM_DB_SECRET_KEY"], user_ids, seconds)
    session.rollback()
    assert set(session.scalars(sa.text(ACTIVE))) <= {1}
    assert session.scalar(sa.select(sa.func.count()).select_from(UserToken))


@pytest.mark.usefixtures("secret_key")
def test_no_user_ever_has_two_access_tokens(database_uri: str, session: Session) -> None:
    live_together(database_uri, session, processes=4, seconds=1)


@pytest.mark.soak
@pytest.mark.usefixtures("secret_key")
def test_no_user_ever_has_two_access_tokens_with_sixteen_processes(
    database_uri: str, session: Session
) -> None:
    live_together(database_uri, session, processes=16, seconds=60)


# -- rotation under load


def serve(uri: str, user_id: uuid.UUID, directory: str, number: int) -> None:
    """Authenticate and issue, with either key the newest, until told to stop; every look-up must hit."""
    use_keys(*((NEW, OLD) if number % 2 else (OLD, NEW)))
    directory_ = Path(directory)
    values = (directory_ / "values").read_text().split()
    engine = database.create_engine(uri, pool_size=1)
    issued = []
    while not (directory_ / "stop").exists():
        with PlatformSession(engine) as session:
            for value in random.choices(values + issued, k=20):
                assert tokens.authenticate(session, value).user_id == user_id
            session.commit()
            # When the rotation is to end, everybody writes with the new key.
            if (directory_ / "last").exists():
                use_keys(NEW, OLD)
            issued.append(tokens.issue(session, user_id, type_=UserTokenType.webhook))
            session.commit()
        (directory_ / f"serving-{number}").touch()
        time.sleep(0.02)  # as requests come, and for the rotation to have some of the processor
    (directory_ / f"issued-{number}").write_text("\n".join(issued))
    engine.dispose()


def rotate(uri: str, batch: int) -> subprocess.Popen[bytes]:
    """Start a rotation in a process of its own."""
    environment = {**os.environ, "PLATFORM_DB_URI": uri, "PLATFORM_DB_SECRET_KEY": f"{NEW},{OLD}"}
    return subprocess.Popen(
        [sys.executable, "-m", "platform_db", "secret", "rotate", "--batch", str(batch)], env=environment
    )


def on_old_key(session: Session) -> int:
    """Return how many secrets the old key encrypts."""
    old = crypto.KeyRing.parse(OLD).newest.id_.hex()
    count = sum(use.rows for use in tokens.key_uses(session) if use.key_id == old)
    session.commit()
    return count


def rotate_and_kill(uri: str, session: Session, batch: int, batches: int) -> None:
    """Kill a rotation in the midst of its work, when it has moved some batches."""
    before = on_old_key(session)
    process = rotate(uri, batch)
    wait_until(lambda: on_old_key(session) < before - batch * batches)
    assert process.poll() is None, "it was done before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert on_old_key(session) > 0


def wait_until(condition: Callable[[], bool], seconds: float = 90) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "it never came to that"
        time.sleep(0.05)


def rotate_under_load(
    uri: str, session: Session, directory: Path, count: int, servers: int, batch: int, batches: int
) -> None:
    use_keys(OLD)
    user_id = make_user(session).id_
    values: list[str] = []
    copy_tokens(session, user_id, count, values)
    (directory / "values").write_text("\n".join(values))
    serving = threading.Thread(target=in_processes, args=(servers, serve, uri, user_id, str(directory)))
    failures: list[object] = []
    threading.excepthook = lambda failed: failures.append(failed.exc_value)
    serving.start()
    try:
        wait_until(lambda: len(list(directory.glob("serving-*"))) == servers)
        for _ in range(2):
            rotate_and_kill(uri, session, batch, batches)
        (directory / "last").touch()
        assert rotate(uri, batch).wait() in (0, errors.PartialFailure.exit_code)
        assert rotate(uri, batch).wait() == 0
    finally:
        (directory / "stop").touch()
        serving.join()
        threading.excepthook = threading.__excepthook__
    assert failures == []
    use_keys(NEW)
    issued = [value for path in directory.glob("issued-*") for value in path.read_text().split()]
    assert len(issued) > servers
    assert {key.state for key in tokens.report_keys(session).keys} == {"newest"}
    ring, stored = crypto.get_key_ring(), tokens.list_tokens(session, user_id, limit=10_000).rows
    assert {token.token for token in stored} == {*values, *issued}
    assert all(token.token_digest == ring.digest(token.token or "") for token in stored)
    for value in random.choices((*values, *issued), k=500):
        assert tokens.authenticate(session, value).user_id == user_id


def copy_tokens(session: Session, user_id: uuid.UUID, count: int, values: list[str]) -> None:
    """Store many tokens at once."""
    from platform_db.crypto.token_format import generate
    from platform_db.identifiers import new_id

    ring = crypto.get_key_ring()
    for start in range(0, count, 5000):
        rows = []
        for _ in range(start, min(count, start + 5000)):
            value, id_ = generate("webhook"), new_id()
            values.append(value)
            rows.append(
                {
                    "id_": id_,
                    "owner_id": user_id,
                    "type_": UserTokenType.webhook,
                    "status": UserTokenStatus.active,
                    "encrypted_token": ring.encrypt(value, f"user_token.token:{id_}"),
                    "token_digest": ring.digest(value),
                }
            )
        session.execute(sa.insert(UserToken), rows)
        session.commit()


@pytest.mark.usefixtures("secret_key")
def test_look_ups_hit_while_keys_are_rotated(database_uri: str, session: Session, tmp_path: Path) -> None:
    rotate_under_load(database_uri, session, tmp_path, count=1000, servers=2, batch=20, batches=2)


@pytest.mark.soak
@pytest.mark.usefixtures("secret_key")
def test_a_hundred_thousand_are_rotated_under_load(
    database_uri: str, session: Session, tmp_path: Path
) -> None:
    rotate_under_load(database_uri, session, tmp_path, count=100_000, servers=4, batch=100, batches=100)
