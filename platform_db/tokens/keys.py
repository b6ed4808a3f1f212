"""Which secret keys the stored secrets are encrypted with. Finding out needs no key."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import crypto, errors
from platform_db.database.session import takes_session
from platform_db.models import Base
from platform_db.models.secret import SecretAttribute


@dataclass(frozen=True)
class SecretColumn:
    """A column of secrets, with what stands beside it.

    :param name: the name that values are bound to, which is the encrypted column's.
    """

    table: str
    name: str
    digest: str

    def context(self, row_id: object) -> str:
        """Return the place that a row's value is bound to."""
        return f"{self.table}.{self.name}:{row_id}"


def secret_columns() -> list[SecretColumn]:
    """Return every column of secrets: what models declare as a :class:`SecretAttribute`."""
    return [
        SecretColumn(mapper.class_.__tablename__, attribute.name, attribute.digest)
        for mapper in sorted(Base.registry.mappers, key=lambda mapper: mapper.class_.__name__)
        for attribute in vars(mapper.class_).values()
        if isinstance(attribute, SecretAttribute)
    ]


@dataclass(frozen=True)
class KeyUse:
    """How many secrets of a column are encrypted with a key.

    :param key_id: the key's id, in hexadecimal digits.
    """

    table: str
    column: str
    key_id: str
    rows: int


@takes_session
def key_uses(session: Session) -> list[KeyUse]:
    """Return how many secrets each key encrypts, by column."""
    uses = []
    for column in secret_columns():
        query = sa.text(f"""
            SELECT encode(substring({column.name} FROM 2 FOR {crypto.KEY_ID_BYTES}), 'hex'), count(*)
            FROM platform.{column.table} WHERE {column.name} IS NOT NULL
            GROUP BY 1 ORDER BY 1
            """)
        uses += [KeyUse(column.table, column.name, *row) for row in session.connection().execute(query)]
    return uses


@dataclass(frozen=True)
class KeyState:
    """The state of a key.

    :param secrets: how many stored secrets it encrypts.
    :param state: ``newest``, ``in use`` (it must stay), ``unused`` (it can be removed) or ``missing``.
    """

    key_id: str
    secrets: int
    state: str


@dataclass(frozen=True)
class KeyReport:
    """Every key that is configured or in use, the configured ones first, newest first."""

    keys: list[KeyState]

    def require_keys(self) -> None:
        """Refuse a ring that lacks a key by which secrets are encrypted.

        :raises errors.SecretKeyError: names the ids of the missing keys.
        """
        missing = [key for key in self.keys if key.state == "missing"]
        if missing:
            raise errors.SecretKeyMissing(
                f"{sum(key.secrets for key in missing)} stored secrets need the secret key with id "
                f"{', '.join(key.key_id for key in missing)}, which is not configured"
            )


@takes_session
def report_keys(session: Session) -> KeyReport:
    """Report the state of each key. No key needs to be configured."""
    uses: Counter[str] = Counter()
    for use in key_uses(session):
        uses[use.key_id] += use.rows
    configured = [key.id_.hex() for key in crypto.configured_keys()]
    states = dict.fromkeys(configured, "unused")
    states |= {id_: "in use" if id_ in configured else "missing" for id_ in sorted(uses)}
    states |= dict.fromkeys(configured[:1], "newest")
    return KeyReport([KeyState(id_, uses[id_], state) for id_, state in states.items()])
