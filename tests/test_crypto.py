"""Secrets at rest: what is stored says nothing without the key, and nothing altered passes for real."""

from __future__ import annotations

import base64
import subprocess

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import crypto, embedded, errors, settings
from platform_db.crypto import KeyRing, generate_key
from platform_db.models import UserToken
from tests.factories import make_user

PLACE = "user_token.token:1"


def test_the_same_value_twice_gives_two_ciphertexts_and_one_digest() -> None:
    ring = KeyRing.parse(generate_key())
    one, two = ring.encrypt("value", PLACE), ring.encrypt("value", PLACE)
    assert one != two
    assert b"value" not in one
    assert ring.decrypt(one, PLACE) == ring.decrypt(two, PLACE) == "value"
    assert ring.digests("value") == [ring.digest("value")]


def test_every_altered_bit_is_noticed() -> None:
    ring = KeyRing.parse(generate_key())
    stored = ring.encrypt("value", PLACE)
    for position in range(len(stored) * 8):
        altered = bytearray(stored)
        altered[position // 8] ^= 1 << position % 8
        with pytest.raises(errors.SecretKeyError):
            ring.decrypt(bytes(altered), PLACE)


@pytest.mark.parametrize("length", [0, 1, 5, 17, 32, -1])
def test_a_cut_value_is_noticed(length: int) -> None:
    ring = KeyRing.parse(generate_key())
    with pytest.raises(errors.DecryptionError):
        ring.decrypt(ring.encrypt("value", PLACE)[:length], PLACE)


@pytest.mark.parametrize("place", ["user_token.token:2", "user_token.other:1", "service.token:1"])
def test_a_value_that_was_moved_is_noticed(place: str) -> None:
    ring = KeyRing.parse(generate_key())
    with pytest.raises(errors.DecryptionError):
        ring.decrypt(ring.encrypt("value", PLACE), place)


def test_the_newest_key_encrypts_and_all_decrypt() -> None:
    old, new = generate_key(), generate_key()
    stored = KeyRing.parse(old).encrypt("value", PLACE)
    both = KeyRing.parse(f"{new}, {old}")
    assert both.decrypt(stored, PLACE) == "value"
    assert crypto.key_id(both.encrypt("value", PLACE)) == both.newest.id_ != crypto.key_id(stored)
    assert KeyRing.parse(old).digest("value") in both.digests("value")
    with pytest.raises(errors.SecretKeyError, match=f"id {crypto.key_id(stored).hex()} is not configured"):
        KeyRing.parse(new).decrypt(stored, PLACE)


@pytest.mark.parametrize("text", ["", "short", base64.b64encode(bytes(31)).decode(), "ä" * 44])
def test_a_key_that_cannot_be_used_is_not_shown(text: str) -> None:
    with pytest.raises(errors.SecretKeyError) as error:
        KeyRing.parse(text)
    assert not text or text not in str(error.value)


def test_a_key_shows_nothing_of_itself() -> None:
    text = generate_key()
    ring = KeyRing.parse(text)
    assert base64.b64decode(text) != ring.newest.encryption
    assert "encryption" not in repr(ring.newest)
    with pytest.raises(errors.SecretKeyError, match="given twice"):
        KeyRing.parse(f"{text},{text}")


def test_without_a_key_only_secrets_fail(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLATFORM_DB_SECRET_KEY", raising=False)
    settings.reset_settings()
    user = make_user(session)
    with pytest.raises(errors.SecretKeyError, match="no secret key is configured"):
        user.access_token = "value"


def test_a_stored_token_cannot_be_moved_to_another_row(session: Session, secret_key: str) -> None:
    one, two = (make_user(session, access_token=f"value-{n}").active_token for n in range(2))
    session.execute(
        sa.update(UserToken).where(UserToken.id_ == two.id_).values(encrypted_token=one.encrypted_token)
    )
    session.commit()
    assert one.token == "value-0"
    with pytest.raises(errors.DecryptionError):
        _ = two.token


def test_a_dump_holds_none_of_many_values(session: Session, engine: sa.Engine, secret_key: str) -> None:
    values = [f"token-value-{number:04d}" for number in range(100)]
    for value in values:
        user = make_user(session, access_token=value)
    parameters = engine.url.translate_connect_args(username="user", database="dbname") | engine.url.query
    if "password" in parameters:
        pytest.skip("the server wants a password, and a password does not belong on a command line")
    arguments = [
        f"--{name}={value}" for name, value in parameters.items() if name in ("host", "port", "dbname")
    ]
    dump = subprocess.run(
        [embedded.binary("pg_dump"), f"--username={parameters['user']}", *arguments],
        capture_output=True,
        check=True,
    ).stdout
    assert str(user.id_).encode() in dump
    for value in values:
        assert value.encode() not in dump
        assert value.encode().hex().encode() not in dump
        assert base64.b64encode(value.encode()) not in dump
