"""Whether the database can be used.

Without ``deep`` no model is imported, so it can be asked every few seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

import platform_db
from platform_db import errors, schema
from platform_db.health.secret_keys import require_secret_keys

if TYPE_CHECKING:
    from platform_db.health.deep_check import Finding


@dataclass(frozen=True)
class Health:
    """What a check found of a database that this release runs on.

    :param extra_transitions: what the guard lets through beyond the states.
    :param findings: what a deep check found; None where none was made.
    """

    state: str
    revision: str | None
    head: str
    extra_transitions: list[dict[str, str]]
    findings: list[Finding] | None

    def raise_for_problems(self) -> None:
        """Raise :class:`errors.Unhealthy` where a deep check found something."""
        if self.findings:
            raise errors.Unhealthy("; ".join(f"{found.check}: {found.count}" for found in self.findings))


def check_database(url: URL | str | None = None, *, deep: bool = False) -> Health:
    """Check that this release runs on the schema, and that no secret key is missing.

    :param url: the database; by default the configured one.
    :param deep: also read all rows, and look which contradict each other; the schema must be current.
    :raises errors.Unreachable: says why.
    :raises errors.NeverMigrated: it has no schema yet.
    :raises errors.SchemaBehind: it is older than the code.
    :raises errors.SchemaAhead: it is newer than the code.
    :raises errors.SecretKeyError: names the ids of the missing keys.
    """
    findings = None
    with schema.connect(url) as connection:
        found = schema.status(connection)
        # A deep check compares all objects with this release's own.
        found.require_current() if deep else found.require_usable()
        require_secret_keys(connection)
        extra = [dict(row) for row in connection.execute(_EXTRA_TRANSITIONS).mappings()]
        if deep:
            from platform_db.health.deep_check import check_deeply

            findings = check_deeply(Session(connection))
    return Health(found.state.value, found.revision, found.head, extra, findings)


_EXTRA_TRANSITIONS = sa.text("""
    SELECT entity, from_status AS from, to_status AS to, reason FROM platform.extra_transition
    ORDER BY entity, from_status, to_status
    """)


def read_versions(url: URL | str | None = None) -> dict[str, str | None]:
    """Return the versions of the server, of the schema and of platform-db, and the schema's state.

    :param url: the database; by default the configured one.
    """
    with schema.connect(url) as connection:
        found = schema.status(connection)
        server = connection.exec_driver_sql("SHOW server_version").scalar_one()
    versions = {"server": server, "revision": found.revision, "head": found.head}
    return {**versions, "state": found.state.value, "platform_db": platform_db.__version__}
