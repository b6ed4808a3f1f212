"""What an error carries: a status for HTTP, a hint for tracebacks, and no parameter of a statement."""

from __future__ import annotations

import copy
import pickle
import sys
import traceback
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import database, errors
from platform_db.crypto.token_format import generate
from platform_db.database import sqlstates
from platform_db.models import User

SECRET = "hunter" + str(2)


def all_errors(base: type[errors.PlatformDBError] = errors.PlatformDBError) -> Iterator[type]:
    yield base
    for subclass in base.__subclasses__():
        yield from all_errors(subclass)


def test_every_error_says_what_a_service_answers() -> None:
    for class_ in all_errors():
        assert class_.http_status in {400, 401, 403, 404, 409, 500, 503}, class_
        # Who asked wrongly can do something about it; what the deployment lacks is no answer to a client.
        assert (class_.http_status < 500) == (class_.exit_code in {2, 8, 10, 11}), class_


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.WorkflowNotFound(), 404),
        (errors.InvalidIdentifier(), 400),
        (errors.ExpiredToken(), 401),
        (errors.MissingScope(), 403),
        (errors.QuotaExceeded("ada", "disk", 1, 2, 3, 4), 403),
        (errors.UserExists(), 409),
        (errors.InvalidTransition("workflow", "1", "finished", "running"), 409),
        (errors.Unreachable(), 503),
        (errors.SchemaBehind(), 503),
        (errors.SecretKeyError(), 500),
    ],
)
def test_the_status_of_an_error(error: errors.PlatformDBError, status: int) -> None:
    assert error.http_status == status


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tracebacks show no notes before Python 3.11")
@pytest.mark.parametrize(
    "error",
    [
        errors.NeverMigrated(),
        pickle.loads(pickle.dumps(errors.NeverMigrated())),
        copy.copy(errors.NeverMigrated()),
        errors.Conflict("workflow", "1", "status", "created", "running", 3),
    ],
)
def test_a_traceback_shows_the_hint_below_the_message(error: errors.PlatformDBError) -> None:
    assert error.hint is not None

    shown = "".join(traceback.format_exception_only(error))

    assert shown.splitlines()[-2:] == [
        f"platform_db.errors.{type(error).__name__}: {error}",
        f"hint: {error.hint}",
    ]
    assert error.hint not in str(error)


def test_no_message_shows_the_value_of_a_token() -> None:
    values = [generate("personal") for _ in range(2)]
    shown = str(errors.InvalidArgument(f"neither {values[0]} nor {values[1]}"))
    assert [value for value in values if value in shown] == []


def test_a_hint_of_its_own_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(errors.Unreachable("refused", hint="ask the administrator")))

    assert (str(error), error.hint) == ("refused", "ask the administrator")
    assert errors.Unreachable().hint == errors.Unreachable.hint


def test_an_interruption_is_no_error_that_a_job_goes_on_after() -> None:
    interrupted = pickle.loads(pickle.dumps(errors.Interrupted(15)))

    assert interrupted.exit_code == 143
    assert not isinstance(interrupted, Exception)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT CAST(:value AS integer)",
        "SELECT CAST(:value AS timestamptz)",
        "SELECT CAST(:value AS platform.run_status)",
        "SELECT CAST(:value AS uuid)",
        "SELECT CAST('{\"' || :value AS jsonb)",
        "SELECT nothing, :value",
        "SELECT :value FROM nowhere",
        "INSERT INTO platform.user_ (id_, email) VALUES (CAST(:value AS uuid), 'a')",
    ],
)
@pytest.mark.parametrize("value", [SECRET, f"first line\n{SECRET}"])
def test_a_refused_statement_and_its_pickle_hold_no_parameter(
    engine: sa.Engine, statement: str, value: str
) -> None:
    with pytest.raises(sa.exc.DBAPIError) as refused, engine.connect() as connection:
        connection.execute(sa.text(statement), {"value": value})

    error = refused.value
    assert SECRET not in f"{error}{error!r}{error.params}{''.join(traceback.format_exception(error))}"
    assert SECRET.encode() not in pickle.dumps(error)
    assert error.orig is not None
    assert pickle.loads(pickle.dumps(error)).orig.pgcode == error.orig.pgcode
    assert str(error.orig) in str(error), "the server's own words stay"


def test_a_value_that_its_type_refuses_is_in_no_pickle(engine: sa.Engine) -> None:
    statement = sa.select(sa.bindparam("value", type_=sa.Uuid()))

    with pytest.raises(sa.exc.StatementError) as refused, engine.connect() as connection:
        connection.execute(statement, {"value": [SECRET]})

    assert SECRET.encode() not in pickle.dumps(refused.value.params)


class TestOwnSqlstates:
    """PD001 to PD006 are platform-db's on its own tables, and whatever else they are elsewhere."""

    def raise_(self, engine: sa.Engine, **given: str) -> None:
        using = "".join(f", {name} = '{value}'" for name, value in given.items())
        with engine.connect() as connection:
            connection.execute(sa.text(f"DO $$ BEGIN RAISE EXCEPTION USING MESSAGE = 'no'{using}; END $$"))

    @pytest.mark.parametrize("number", range(1, 7))
    @pytest.mark.parametrize("place", [{}, {"SCHEMA": "shop", "TABLE": "workflow"}, {"SCHEMA": "platform"}])
    def test_elsewhere(self, database_uri: str, number: int, place: dict[str, str]) -> None:
        for engine in (database.create_engine(database_uri), sa.create_engine(database_uri)):
            with pytest.raises(sa.exc.DBAPIError):
                self.raise_(engine, ERRCODE=f"PD00{number}", DETAIL="1 running created", **place)
            engine.dispose()

    @pytest.mark.parametrize("detail", [{}, {"DETAIL": ""}, {"DETAIL": "a b"}, {"DETAIL": "a b c d"}])
    def test_without_the_detail_that_we_write(self, engine: sa.Engine, detail: dict[str, str]) -> None:
        with pytest.raises(sa.exc.DBAPIError):
            self.raise_(engine, ERRCODE="PD001", SCHEMA="platform", TABLE="workflow", **detail)

    def test_on_a_table_without_a_status(self, engine: sa.Engine) -> None:
        with pytest.raises(sa.exc.DBAPIError):
            self.raise_(engine, ERRCODE="PD001", SCHEMA="platform", TABLE="shop", DETAIL="1 running created")

    @pytest.mark.parametrize(
        ("sqlstate", "class_"),
        [
            ("PD001", errors.InvalidTransition),
            ("PD002", errors.AppendOnly),
            ("PD003", errors.Refused),
            ("PD004", errors.RunNumberError),
            ("PD006", errors.DependencyCycle),
        ],
    )
    def test_on_our_tables(
        self, engine: sa.Engine, sqlstate: str, class_: type[errors.PlatformDBError]
    ) -> None:
        with pytest.raises(class_):
            self.raise_(
                engine, ERRCODE=sqlstate, SCHEMA="platform", TABLE="workflow", DETAIL="1 running created"
            )


@pytest.mark.parametrize(
    ("statement", "is_refused"),
    [
        ("SELECT 'x'::integer", True),
        ("INSERT INTO platform.resource DEFAULT VALUES", True),
        ("DO $$ BEGIN RAISE SQLSTATE 'PD003'; END $$", True),
        ("SET LOCAL ROLE nowhere", False),
        ("SET LOCAL statement_timeout = '1ms'; SELECT pg_sleep(1)", False),
    ],
)
def test_a_role_that_is_missing_is_no_rows_fault(engine: sa.Engine, statement: str, is_refused: bool) -> None:
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError) as error:
        connection.exec_driver_sql(statement)
    assert sqlstates.is_refused_value(error.value) is is_refused


def test_a_constraint_of_the_same_name_elsewhere_is_not_ours(engine: sa.Engine, session: Session) -> None:
    session.add(User(email="ada@example.org"))
    session.commit()
    with pytest.raises(errors.UserExists):
        session.add(User(id_=uuid.uuid4(), email="ADA@example.org"))
        session.flush()
    with pytest.raises(sa.exc.IntegrityError), engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x integer CONSTRAINT uq_user__email UNIQUE)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1), (1)")
