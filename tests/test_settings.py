"""What a deployment has in its environment beside the settings, and what is left around their values."""

from __future__ import annotations

import base64
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest

from platform_db import audit, crypto, database, embedded, errors, settings
from platform_db.settings.variables import STATUSES, Settings
from platform_db.states import JobStatus, RunStatus
from tests.command_line import one_line, run

URI = "postgresql://ada:s3cr3t@db.example.org/jobs"

OF_A_SERVICE = {
    "PLATFORM_DB_SERVICE_HOST": "10.0.0.1",
    "PLATFORM_DB_SERVICE_PORT": "5432",
    "PLATFORM_DB_SERVICE_PORT_POSTGRESQL": "5432",
    "PLATFORM_DB_PORT": "tcp://10.0.0.1:5432",
    "PLATFORM_DB_PORT_5432_TCP": "tcp://10.0.0.1:5432",
    "PLATFORM_DB_PORT_5432_TCP_PROTO": "tcp",
    "PLATFORM_DB_PORT_5432_TCP_PORT": "5432",
    "PLATFORM_DB_PORT_5432_TCP_ADDR": "10.0.0.1",
    "PLATFORM_DB_POOLER_SERVICE_HOST": "10.0.0.2",
    "PLATFORM_DB_POOLER_PORT": "tcp://10.0.0.2:6432",
    "PLATFORM_DB_POOLER_PORT_6432_TCP_ADDR": "10.0.0.2",
}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Settings]]:
    """Give a function that reads the settings where nothing but these variables is set."""

    def read(**variables: str) -> Settings:
        for name in [name for name in os.environ if name.startswith("PLATFORM_DB_")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(f"PLATFORM_DB_{name}", value)
        settings.reset_settings()
        return settings.get_settings()

    yield read
    settings.reset_settings()


def test_a_service_called_platform_db_breaks_nothing(
    read: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    variables = {name.removeprefix("PLATFORM_DB_"): value for name, value in OF_A_SERVICE.items()}

    found = read(**variables, HOST="db.example.org")

    assert found.port == 5432
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "PLATFORM_DB_PORT is ignored" in record.getMessage()
    assert "Kubernetes service" in record.getMessage()


def test_the_port_of_a_file_counts_beside_a_service(read: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "port").write_text("6432\n")

    assert read(PORT="tcp://10.0.0.1:5432", PORT_FILE=str(tmp_path / "port")).port == 6432


@pytest.mark.parametrize(
    "written",
    [f"{URI}\n", f"{URI}\r\n", f' "{URI}" ', f"'{URI}'\n", f"\ufeff{URI}", f'\ufeff"{URI}"\r\n'],
)
def test_what_surrounds_a_value_is_dropped(
    read: Callable[..., Settings], tmp_path: Path, written: str
) -> None:
    (tmp_path / "uri").write_text(written, encoding="utf-8", newline="")

    for found in (read(URI=written), read(URI_FILE=str(tmp_path / "uri"))):
        assert found.uri is not None
        assert found.uri.get_secret_value() == URI


def test_a_root_has_one_slash_at_its_beginning(read: Callable[..., Settings]) -> None:
    assert read(WORKSPACE_ROOT="//data/./runs/").workspace_root == ("/data/runs",)


def test_a_password_keeps_its_quotes(read: Callable[..., Settings]) -> None:
    found = read(HOST="db.example.org", PASSWORD="'quoted'\n")

    assert found.password is not None
    assert found.password.get_secret_value() == "'quoted'"


@pytest.mark.parametrize("written", [" s3cr3t ", "\ufeff s3cr3t \r\n"])
def test_a_password_keeps_its_spaces(read: Callable[..., Settings], tmp_path: Path, written: str) -> None:
    (tmp_path / "password").write_text(written, encoding="utf-8", newline="")

    for found in (
        read(HOST="db.example.org", PASSWORD=written),
        read(HOST="db.example.org", PASSWORD_FILE=str(tmp_path / "password")),
    ):
        assert found.password is not None
        assert found.password.get_secret_value() == " s3cr3t "


NUMBERS = [
    name
    for name, field in Settings.model_fields.items()
    if {int, float} & {field.annotation, *get_args(field.annotation)}
]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_nothing_can_take_is_refused(read: Callable[..., Settings], name: str) -> None:
    with pytest.raises(errors.InvalidSetting, match=f"PLATFORM_DB_{name.upper()}"):
        read(URI=URI, **{name.upper(): "99999999999999999999"})


@pytest.mark.parametrize("timeout", ["STATEMENT_TIMEOUT", "LOCK_TIMEOUT", "IDLE_IN_TRANSACTION_TIMEOUT"])
def test_the_server_takes_the_longest_timeout(database_uri: str, timeout: str) -> None:
    longest, longer = ({f"PLATFORM_DB_{timeout}": str(value)} for value in (2**31 - 1, 2**31))

    assert run(database_uri, "db", "check", **longest).exit_code == 0
    assert run(database_uri, "db", "check", **longer).exit_code == errors.InvalidSetting.exit_code


def test_a_status_that_is_none_is_refused(read: Callable[..., Settings]) -> None:
    assert set(STATUSES) == {status.value for status in (*RunStatus, *JobStatus)}
    for status in STATUSES:
        read(URI=URI, KEEP_ALIVE_JOBS_WITH_STATUSES=status)
    with pytest.raises(errors.InvalidSetting, match=r"KEEP_ALIVE_JOBS_WITH_STATUSES: .*unknown status bogus"):
        read(URI=URI, KEEP_ALIVE_JOBS_WITH_STATUSES="failed,bogus")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("?sslmode=s3cr3t", "invalid sslmode value"),
        ("?port=99999", "invalid port number"),
        ("?port=s3cr3t", "a host or a port among its options"),
        ("?host=a&host=b&port=1&port=2&port=3", "a host or a port among its options"),
        ("?target_session_attrs=s3cr3t", "invalid target_session_attrs value"),
    ],
)
def test_a_value_that_the_driver_refuses_is_a_setting(options: str, reason: str) -> None:
    result = run(f"postgresql://ada@/d{options}", "db", "check")

    assert result.exit_code == errors.InvalidSetting.exit_code, result.output
    assert reason in one_line(result.stderr)
    assert "s3cr3t" not in result.output


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("URL", "URI"),
        ("POOLSIZE", "POOL_SIZE"),
        ("USER", "USERNAME"),
        ("PASSWORD_FLIE", "PASSWORD_FILE"),
        ("uri", "URI"),
    ],
)
def test_a_mistyped_variable_is_told_with_the_likely_name(
    read: Callable[..., Settings], caplog: pytest.LogCaptureFixture, mistyped: str, meant: str
) -> None:
    read(**{mistyped: "s3cr3t", "URI": URI})
    settings.get_settings()

    (record,) = caplog.records
    assert f"PLATFORM_DB_{mistyped} is ignored" in record.getMessage()
    assert record.getMessage().endswith(f"did you mean PLATFORM_DB_{meant}?")
    assert "s3cr3t" not in record.getMessage()


def test_what_is_known_or_like_nothing_is_not_told(
    read: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    read(URI=URI, TEST_URI=URI, PASSWORD_FILE="", BACKUP_BUCKET="s3://backups")

    assert caplog.records == []


@pytest.mark.parametrize("password", ["p@ss", "p@s/s", "p/s@s", "p@s:s", "p%zz", "p%", "p%ff", "p@ss@"])
def test_a_password_that_is_not_escaped_is_refused_with_how_to_write_it(password: str) -> None:
    result = run(f"postgresql://ada:{password}@h/d", "db", "check")

    assert result.exit_code == errors.InvalidSetting.exit_code
    assert "write % as %25, @ as %40" in one_line(result.stderr)
    assert password not in result.output
    assert "s@h" not in result.output


@pytest.mark.parametrize("password", ["p#ss", "p/ss", "p?ss", "p:ss", "p%40ss", "pä%C3%A4"])
def test_a_password_that_can_be_told_apart_is_read(password: str) -> None:
    url = database.normalise_url(f"postgresql://ada:{password}@h:5433/d?sslmode=require")

    assert (url.host, url.port, url.database, url.query["sslmode"]) == ("h", 5433, "d", "require")
    assert url.password == password.replace("%40", "@").replace("%C3%A4", "ä")


@pytest.mark.parametrize(
    ("variables", "hint"),
    [
        ({"POOL_SIZE": "many"}, "what the message names"),
        ({"URI_FILE": "/nowhere"}, "the path of a text file"),
        ({"SECRET_KEY": "short"}, "correct PLATFORM_DB_SECRET_KEY"),
    ],
)
def test_a_hint_is_about_its_own_setting(variables: dict[str, str], hint: str) -> None:
    result = run(None, "db", "check", **{f"PLATFORM_DB_{name}": value for name, value in variables.items()})

    assert hint in one_line(result.stderr)
    assert "PLATFORM_DB_URI (" not in result.stderr


class TestKeys:
    def test_one_form_fits_every_key(self, read: Callable[..., Settings], tmp_path: Path) -> None:
        key = base64.urlsafe_b64encode(b"\xfb\xef" + secrets.token_bytes(30)).decode()
        assert set(key) & set("-_")

        read(URI=URI, SECRET_KEY=key, AUDIT_SIGNING_KEY=f"{key}\n")

        assert crypto.configured_keys()
        assert audit.public_key()

    @pytest.mark.parametrize("key", ["", "short", "ä" * 44, base64.b64encode(bytes(31)).decode()])
    def test_what_is_no_key_is_refused_alike(self, read: Callable[..., Settings], key: str) -> None:
        with pytest.raises(errors.SecretKeyError, match=r"not 32 bytes in base64|no secret key"):
            crypto.KeyRing.parse(key)
        if key:
            read(AUDIT_SIGNING_KEY=key)
            with pytest.raises(errors.InvalidSetting, match="AUDIT_SIGNING_KEY is not 32 bytes in base64"):
                audit.public_key()

    def test_a_generated_key_is_one(self, place: Path) -> None:
        for key in (crypto.generate_key(), embedded.secret_key(place / "database")):
            assert len(crypto.KeyRing.parse(key).keys) == 1
