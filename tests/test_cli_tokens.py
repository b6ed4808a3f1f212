"""``platform-db user``, ``token`` and ``secret``."""

from __future__ import annotations

import json
import os
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy.orm import Session

from platform_db import crypto, errors, sessions, settings, tokens
from platform_db.cli import main
from platform_db.crypto.token_format import generate
from platform_db.models import AuditLog, User
from tests.command_line import one_line
from tests.factories import make_run, make_user

ID = str(uuid.uuid4())

OLD, NEW = (crypto.generate_key() for _ in range(2))


class Cli:
    """The command line on one database, with secret keys."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.keys: str | None = OLD

    def __call__(self, *arguments: str, value: str | None = None) -> Result:
        environment = {name: None for name in os.environ if name.startswith("PLATFORM_DB_")}
        environment |= {"PLATFORM_DB_URI": self.uri, "PLATFORM_DB_SECRET_KEY": self.keys}
        settings.reset_settings()
        try:
            return CliRunner(env=environment).invoke(main, arguments, input=value, prog_name="platform-db")
        finally:
            settings.reset_settings()
            sessions.reset_engine()

    def json(self, *arguments: str, value: str | None = None) -> Any:
        result = self(*arguments, "--json", value=value)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
def cli(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("PLATFORM_DB_SECRET_KEY", OLD)
    settings.reset_settings()
    return Cli(database_uri)


def test_a_user_is_created_listed_shown_and_deleted(cli: Cli, session: Session) -> None:
    created = cli.json("user", "create", "ada@example.org", "--full-name", "Ada Lovelace")
    assert created["email"] == "ada@example.org"
    assert cli("user", "list").stdout.splitlines()[1] == f"{created['id']}  ada@example.org"
    assert cli.json("user", "list") == [created]
    assert cli.json("user", "show", "ADA@example.org")["full_name"] == "Ada Lovelace"
    assert cli("user", "create", "Ada@example.org").exit_code == errors.UserExists.exit_code
    make_run(session, session.get(User, uuid.UUID(created["id"])))
    refused = cli("user", "delete", created["id"], "--yes")
    assert refused.exit_code == errors.UserHasWork.exit_code
    assert "has work: 1 workflow" in one_line(refused.stderr)
    assert cli("user", "delete", created["id"], value="n\n").exit_code == 1
    assert cli("user", "delete", created["id"], "--delete-work", value="y\n").exit_code == 0
    assert cli("user", "show", created["id"]).exit_code == errors.UserNotFound.exit_code
    actions = session.scalars(sa.select(AuditLog.action).order_by(AuditLog.created)).all()
    assert actions == ["create_user", "delete_user"]


def test_all_users_are_listed(cli: Cli, session: Session) -> None:
    session.execute(sa.insert(User), [{"email": f"{number}@example.org"} for number in range(101)])
    session.commit()
    assert len(cli.json("user", "list")) == 101


def test_deleting_a_user_asks_outside_any_transaction_and_holds_to_what_was_said(
    cli: Cli, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = make_user(session, email="ada@example.org")
    asked = []

    def confirm(question: str, **_: object) -> None:
        others = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
        )
        asked.append(session.scalar(others))
        make_run(session, owner)
        session.commit()

    monkeypatch.setattr("click.confirm", confirm)

    refused = cli("user", "delete", "ada@example.org", "--delete-work")

    assert asked == [0]
    assert refused.exit_code == errors.UserHasWork.exit_code
    assert cli("user", "show", "ada@example.org").exit_code == 0


def test_a_new_value_is_shown_once(cli: Cli, session: Session) -> None:
    cli("user", "create", "ada@example.org")
    shown = cli("token", "issue", "ada@example.org").stdout.strip()
    assert tokens.authenticate(session, shown, scopes=["read", "run"]).type_ == "access"
    named = cli.json(
        "token", "issue", "ada@example.org", "--type", "personal", "--name", "laptop",
        "--scope", "read", "--scope", "run", "--expires-in", "90d",
    )  # fmt: skip
    found = tokens.authenticate(session, named["value"], scopes=["read", "run"])
    assert str(found.token_id) == named["id"]
    assert found.expires_at is not None
    session.commit()
    listed = cli("token", "list", "ada@example.org").stdout + json.dumps(
        cli.json("token", "list", "ada@example.org")
    )
    assert "laptop" in listed
    assert shown not in listed
    assert named["value"] not in listed


def test_a_token_is_requested_granted_and_revoked(cli: Cli, session: Session) -> None:
    cli("user", "create", "ada@example.org")
    requested = cli("token", "request", "ada@example.org").stdout.strip()
    again = cli("token", "request", "ada@example.org")
    assert again.exit_code == errors.TokenError.exit_code
    assert "has already requested an access token" in one_line(again.stderr)
    granted = cli("token", "grant", "ada@example.org", "--own-value", value="brought along\n").stdout
    assert granted.strip() == requested
    assert tokens.authenticate(session, "brought along")
    session.commit()
    assert cli("token", "revoke", requested, "--reason", "left").stdout == "revoked\n"
    assert "revoked before" in cli("token", "revoke", "--by-value", value="brought along\n").stdout
    with pytest.raises(errors.RevokedToken):
        tokens.authenticate(session, "brought along")
    assert cli.json("token", "purge", "--revoked-for", "0s") == {"expired": 0, "purged": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        ("token", "revoke", "VALUE"),
        ("token", "revoke", ID, "--reason", "leak of VALUE"),
        ("token", "request", "VALUE"),
        ("token", "list", "VALUE"),
        ("token", "issue", "ada@example.org", "--type", "personal", "--name", "VALUE"),
        ("user", "show", "VALUE"),
        ("user", "show", "CUT"),
        ("user", "delete", "VALUE"),
    ],
)
def test_a_value_is_no_argument(cli: Cli, arguments: tuple[str, ...]) -> None:
    value = generate("access")
    cut = value[:-1]
    refused = cli(*(argument.replace("VALUE", value).replace("CUT", cut) for argument in arguments))
    assert refused.exit_code == 2
    assert "stdin or by prompt" in refused.output
    assert cut not in refused.output


def test_a_value_in_place_of_an_id_is_not_shown(cli: Cli) -> None:
    value = generate("access")
    refused = cli("db", "get", "user_token", value)
    assert refused.exit_code == errors.InvalidIdentifier.exit_code
    assert "'pdb_…' is neither an id" in one_line(refused.stderr)


def test_an_address_may_begin_like_a_value(cli: Cli) -> None:
    cli("user", "create", "pdb_admin@example.org")
    assert cli("user", "show", "pdb_admin@example.org").exit_code == 0
    assert cli("token", "revoke").exit_code == 2


def test_keys_are_told_rotated_and_missed(cli: Cli, session: Session) -> None:
    cli("user", "create", "ada@example.org")
    value = cli("token", "issue", "ada@example.org").stdout.strip()
    old, new = (crypto.KeyRing.parse(key).newest.id_.hex() for key in (OLD, NEW))

    def states() -> list[tuple[str, int, str]]:
        return [(key["key_id"], key["secrets"], key["state"]) for key in cli.json("secret", "status")]

    assert states() == [(old, 1, "newest")]
    cli.keys = NEW
    for command in (("secret", "status"), ("secret", "rotate"), ("db", "check"), ("db", "check", "--deep")):
        missed = cli(*command)
        assert missed.exit_code == errors.SecretKeyError.exit_code
        assert f"stored secrets need the secret key with id {old}" in one_line(missed.stderr)
    assert json.loads(cli("db", "check", "--json").stdout)["state"] == "secret_key_missing"
    cli.keys = None
    assert cli("db", "check").exit_code == 0
    cli.keys = f"{NEW},{OLD}"
    assert cli("db", "check").exit_code == 0
    assert states() == [(new, 0, "newest"), (old, 1, "in use")]
    assert cli.json("secret", "rotate")["rotated"] == 1
    assert states() == [(new, 1, "newest"), (old, 0, "unused")]
    assert "0 secrets were moved" in cli("secret", "rotate").stdout
    cli.keys = NEW
    assert cli("secret", "status").exit_code == 0
    for neither in (("token", "revoke"), ("token", "revoke", ID, "--by-value")):
        assert cli(*neither, value=f"{value}\n").exit_code == 2
    assert cli("token", "revoke", "--by-value", value=f"{value}\n").stdout == "revoked\n"


def test_a_rotation_that_leaves_secrets_behind_is_a_partial_failure(cli: Cli, session: Session) -> None:
    cli("user", "create", "ada@example.org")
    cli("token", "issue", "ada@example.org")
    session.execute(sa.text("UPDATE platform.user_token SET token = overlay(token PLACING 'x' FROM 60)"))
    session.commit()
    cli.keys = f"{NEW},{OLD}"
    for options in ((), ("--json",)):
        assert cli("secret", "rotate", *options).exit_code == errors.PartialFailure.exit_code


def test_what_touches_no_secret_needs_no_key(cli: Cli) -> None:
    cli("user", "create", "ada@example.org")
    cli("token", "issue", "ada@example.org")
    cli.keys = None
    for command in (
        ("user", "create", "bob@example.org"),
        ("user", "list"),
        ("user", "show", "ada@example.org"),
        ("token", "request", "bob@example.org"),
        ("token", "list", "ada@example.org"),
        ("token", "purge"),
        ("user", "delete", "bob@example.org", "--yes"),
        ("secret", "generate"),
    ):
        assert cli(*command).exit_code == 0, command
    token_id = json.loads(cli("token", "list", "ada@example.org", "--json").stdout)[0]["id"]
    assert cli("token", "revoke", token_id).exit_code == 0
    assert cli("secret", "status").exit_code == errors.SecretKeyError.exit_code
    missing = cli("token", "issue", "ada@example.org")
    assert missing.exit_code == errors.SecretKeyError.exit_code
    assert "no secret key is configured" in one_line(missing.stderr)
