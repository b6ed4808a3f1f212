"""What these tests move a redun database to: a user of a database, and the command that moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from platform_db.integrations.redun_import.tables import TABLES
from platform_db.models import User
from tests import command_line


class Target:
    """The database that is moved to, one user of it, and the command."""

    def __init__(self, uri: str, user: User) -> None:
        self.uri, self.user_id = uri, user.id_

    def run(self, source: str, *options: str, **variables: str) -> Any:
        return command_line.run(self.uri, *self.arguments(source, *options), **variables)

    def arguments(self, source: str, *options: str) -> tuple[str, ...]:
        return ("import", "redun", "--json", "--from", source, "--user", str(self.user_id), *options)

    def contents(self) -> dict[str, list[str]]:
        """Return what the user has in every table."""
        engine = sa.create_engine(self.uri)
        with engine.connect() as connection:
            rows = {
                table.name: connection.scalars(
                    sa.text(
                        f"SELECT (to_jsonb(t) - ARRAY['owner_id', 'seen_at'])::text AS row"
                        f" FROM platform.{table.target} AS t WHERE owner_id = :owner ORDER BY 1"
                    ),
                    {"owner": self.user_id},
                ).all()
                for table in TABLES
            }
        engine.dispose()
        return {name: list(found) for name, found in rows.items()}

    def rows(self, query: str, **values: Any) -> list[Any]:
        engine = sa.create_engine(self.uri)
        with engine.begin() as connection:
            result = connection.execute(sa.text(query), {"owner": self.user_id, **values})
            found = list(result.all()) if result.returns_rows else []
        engine.dispose()
        return found


def counted(result: Any, name: str) -> dict[str, int]:
    """Return the tables that have a number other than 0 in a column of the summary."""
    return {row["table"]: row[name] for row in json.loads(result.stdout) if row[name]}


def reported(file: Path, outcome: str) -> dict[str, str]:
    """Return the reasons that a report has for rows of an outcome, by table and id."""
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {
        f"{line['table']} {line['id']}": line.get("reason", "")
        for line in lines
        if line["outcome"] == outcome
    }
