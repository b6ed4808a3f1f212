"""``platform-db roles``: the database's roles and their privileges."""

from __future__ import annotations

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_factory
from platform_db.cli.options import json_option
from platform_db.cli.show import show_row

sql_option = click.option("--sql", "as_sql", is_flag=True, help="Print the SQL instead of running it.")

roles = group(
    "roles",
    "Their names begin with PLATFORM_DB_ROLE_PREFIX, so that each platform on a server has roles of its own.",
)


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
    click.echo("\n".join(f"made {name}" for name in made) or "nothing to do: all roles are there")


@roles.command(example="roles grant --to api")
@click.option("--to", metavar="LOGIN", help="Make this login a member of a role, too.")
@click.option(
    "--as",
    "role",
    type=click.Choice(["service", "tenant", "readonly", "auditor"]),
    default="service",
    show_default=True,
    help="The role of that login.",
)
@sql_option
def grant(to: str | None, role: str, as_sql: bool) -> None:
    """Give the roles their privileges and policies in this database.

    Run it as the tables' owner, after each upgrade. As the database's owner, it also takes CONNECT from
    everybody but the roles. It reports what it does not change: row-level security and the tenants' policy,
    which migrations make, policies of others, privileges and objects of other roles, and what the roles and
    their members are on the server.
    """
    from platform_db import database
    from platform_db.tenancy import roles as library
    from platform_db.tenancy.privileges import Role

    if as_sql:
        _print(library.grant_statements(to, Role[role]))
        return
    library.grant_privileges(session_factory(database.migration_url()), to=to, role=Role[role])
    click.echo("the roles have their privileges in this database")


@roles.command(example="roles show")
@json_option
def show(as_json: bool) -> None:
    """Show what each role may do, how the database differs, and what the roles reach elsewhere."""
    from platform_db import database
    from platform_db.tenancy import drift, reach
    from platform_db.tenancy.privileges import OTHERS, Role, privileges, role_name

    with session_factory(database.migration_url())() as session:
        differences = drift.differences(session)
        elsewhere = reach.elsewhere(session)
        close = reach.open_to_everybody(session)
    table = {
        name: {role_name(role): list(by_role.get(role, ())) for role in Role}
        for name, by_role in {**OTHERS, **privileges()}.items()
    }
    if as_json:
        shown = {"differences": list(map(vars, differences)), "elsewhere": list(map(vars, elsewhere))}
        show_row({"privileges": table, **shown, "open_to_everybody": close is not None}, as_json)
    else:
        for name, roles_ in table.items():
            click.echo(name)
            for role, verbs in roles_.items():
                click.echo(f"  {role:<18} {', '.join(verbs) or '-'}")
        for found in elsewhere:
            connects = "may connect" if found.connects else "may not connect"
            members = f" ({', '.join(found.members)} acts as it)" if found.members else ""
            who = f"{found.role}{members}"
            click.echo(f"in the database {found.database}, {who} has {found.objects} objects, and {connects}")
        if close:
            end = f"its owner ends that by: {close}"
            click.echo(f"each login of the server may connect to this database; {end}")
    if differences:
        raise drift.as_error(differences)


def _print(statements: list[str]) -> None:
    for statement in statements:
        click.echo(f"{statement};")
