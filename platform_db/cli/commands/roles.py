"""``platform-db roles``: the database's roles and their privileges."""

from __future__ import annotations

import json
from typing import Any

import click

from platform_db.cli.command import Group
from platform_db.cli.database import session_factory
from platform_db.cli.options import json_option

sql_option = click.option("--sql", "as_sql", is_flag=True, help="Print the SQL instead of running it.")


@click.group(cls=Group)
def roles() -> None:
    """Make the database's roles and give them their privileges."""


@roles.command(example="roles create --sql")
@sql_option
def create(as_sql: bool) -> None:
    """Make the roles that are missing on the server.

    It takes a login that may create roles. Where there is none, --sql prints what an administrator is to run.
    """
    from sqlalchemy import orm

    from platform_db import database
    from platform_db.tenancy import roles as library

    if as_sql:
        _print(library.create_statements())
        return
    # Roles belong to the server: the schema of this database does not matter.
    made = library.create_roles(orm.sessionmaker(database.create_engine(database.migration_url())))
    for name in made:
        click.echo(f"made {name}")
    if not made:
        click.echo("nothing to do: all roles are there")


@roles.command(example="roles grant --to api")
@click.option("--to", metavar="LOGIN", help="Make this login a member of platform_service, too.")
@sql_option
def grant(to: str | None, as_sql: bool) -> None:
    """Give the roles their privileges and policies in this database.

    Run it as the tables' owner, after each upgrade. What it does not change, it tells: row-level security and
    the tenants' policy, which migrations make, policies of others, and what the roles are on the server.
    """
    from platform_db import database
    from platform_db.tenancy import roles as library

    if as_sql:
        _print(library.grant_statements(to))
        return
    library.grant_privileges(session_factory(database.migration_url()), to=to)
    click.echo("the roles have their privileges in this database")


@roles.command(example="roles show")
@json_option
def show(as_json: bool) -> None:
    """Show what each role may do, and in what the database differs from it."""
    from platform_db import database, errors
    from platform_db.tenancy import drift
    from platform_db.tenancy.privileges import Role, privileges

    with session_factory(database.migration_url())() as session:
        differences = drift.differences(session)
    table: dict[str, dict[str, Any]] = {
        name: {role.value: list(by_role.get(role, ())) for role in Role}
        for name, by_role in privileges().items()
    }
    if as_json:
        found = [difference.__dict__ for difference in differences]
        click.echo(json.dumps({"privileges": table, "differences": found}))
    else:
        for name, roles_ in table.items():
            click.echo(name)
            for role, verbs in roles_.items():
                click.echo(f"  {role:<18} {', '.join(verbs) or '-'}")
    if differences:
        raise errors.RolesMissing(drift.describe(differences))


def _print(statements: list[str]) -> None:
    for statement in statements:
        click.echo(f"{statement};")
