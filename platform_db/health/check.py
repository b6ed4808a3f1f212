"""Whether the database can be used.

Without ``deep`` no model is imported, so it can be asked every few seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

import platform_db
from platform_db import schema
from platform_db.health.secret_keys import require_secret_keys

if TYPE_CHECKING:
    from platform_db.health.deep_check import Finding


@dataclass(frozen=True)
class Health:
    """What a check found.

    :param schema: the schema's state, which is current.
    :param findings: what a deep check found; None where none was made.
    """

    schema: schema.SchemaStatus
    findings: list[Finding] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        found: dict[str, Any] = {
            "state": self.schema.state.value,
            "revision": self.schema.revision,
            "head": self.schema.head,
        }
        if self.findings is not None:
            found["findings"] = [finding.as_dict() for finding in self.findings]
        return found

    def raise_for_problems(self) -> None:
        """Raise :class:`errors.Unhealthy` where a deep check found something."""
        if self.findings:
            from platform_db.health.deep_check import require_healthy

            require_healthy(self.findings)


def check_database(url: URL | str | None = None, *, deep: bool = False) -> Health:
    """Check that the schema is current, and that no secret key is missing.

    :param url: the database; by default the configured one.
    :param deep: also read all rows, and look which contradict each other.
    :raises errors.Unreachable: says why.
    :raises errors.NeverMigrated: it has no schema yet.
    :raises errors.SchemaBehind: it is older than the code.
    :raises errors.SchemaAhead: it is newer than the code.
    :raises errors.SecretKeyError: names the ids of the missing keys.
    """
    with schema.connect(url) as connection:
        found = schema.status(connection)
        found.require_current()
        require_secret_keys(connection)
        if not deep:
            return Health(found)
        from platform_db.health.deep_check import check_deeply

        return Health(found, check_deeply(Session(connection)))


def read_versions(url: URL | str | None = None) -> dict[str, str | None]:
    """Return the versions of the server, of the schema and of platform-db, and the schema's state.

    :param url: the database; by default the configured one.
    """
    with schema.connect(url) as connection:
        found = schema.status(connection)
        server = connection.exec_driver_sql("SHOW server_version").scalar_one()
    return {
        "server": server,
        "revision": found.revision,
        "head": found.head,
        "state": found.state.value,
        "platform_db": platform_db.__version__,
    }
