"""What a transaction says to the triggers: who acts, why and from where, in settings that end with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.orm import Session


@contextmanager
def saying(session: Session, values: Mapping[str, str]) -> Iterator[None]:
    """Set what triggers read within this block, which is a savepoint: an error takes it back, too."""
    with session.begin_nested():
        connection = session.connection()
        before = connection.execute(_READ).one()
        say(connection, values)
        yield
        session.flush()
        say(connection, {name: getattr(before, name) for name in values})


def say(connection: sa.Connection, values: Mapping[str, str | None]) -> None:
    """Set what triggers read in the rest of this transaction; what is None is left as it was."""
    for name, value in values.items():
        if value is not None:
            connection.execute(_SET[name], {"value": value})


_NAMES = ("actor", "actor_id", "address", "details", "guard", "import", "reason", "request_id", "service")
_SET = {name: sa.text(f"SET LOCAL platform.{name} = :value") for name in _NAMES}
_READ = sa.text(
    "SELECT " + ", ".join(f"coalesce(current_setting('platform.{n}', true), '') AS {n}" for n in _NAMES)
)
