"""``platform-db import``: moving the data of another platform here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_factory
from platform_db.cli.options import F, json_option, options, user_option
from platform_db.cli.other_database import refuse_password
from platform_db.cli.show import columns, show_rows

if TYPE_CHECKING:
    from platform_db.transfer.report import Report

SOURCE_VARIABLE = "REANA_SQLALCHEMY_DATABASE_URI"
REDUN_VARIABLE = "REDUN_DB_URI"

COLUMNS = ("table", "rows", "written", "removed", "transformed", "refused", "left_out")

import_ = group("import")


_file = click.Path(path_type=Path, dir_okay=False)


def source_options(variable: str, what: str, reported: str) -> Callable[[F], F]:
    """Return the options that every import has.

    :param variable: the environment variable that may name the database to read.
    :param what: what that database is.
    :param reported: the rows that the report has a line for.
    """
    return options(
        click.option(
            "--from",
            "uri",
            metavar="URI",
            envvar=variable,
            show_envvar=True,
            required=True,
            callback=refuse_password,
            help=f"{what} Its password comes from the variable, PGPASSWORD or ~/.pgpass.",
        ),
        click.option("--dry-run", is_flag=True, help="Check every row, and write nothing."),
        click.option("--report", type=_file, help=f"Write a line of JSON here for each row {reported}."),
    )


@contextmanager
def shown_report(path: Path | None, as_json: bool) -> Iterator[Report]:
    """Give a report, whose summary is shown at the end.

    :raises errors.PartialFailure: rows were refused.
    """
    from platform_db import errors
    from platform_db.transfer.report import Report

    with Report.to(path) as made:
        ended = False
        try:
            yield made
            ended = True
        finally:
            if ended or made.rows:  # else there is nothing to sum up beside the error
                show_rows(made.summary(), as_json, columns(*COLUMNS))
    if refused := sum(made.counts["refused"].values()):
        where = f"{path} names them" if path else "--report FILE names them"
        raise errors.PartialFailure(f"{refused} rows were refused", hint=where)


@import_.command(example="import reana --from postgresql://reana@reana-db/reana --dry-run")
@source_options(SOURCE_VARIABLE, "REANA's database.", "that moves or does not")
@click.option(
    "--decisions", type=_file, help="Read what you decide from this file; questions are written to it."
)
@click.option("--old-key-file", type=_file, help="REANA's secret key; by default it is REANA_SECRET_KEY.")
@click.option(
    "--time-zone", "zone", default="UTC", show_default=True, help="The time zone of REANA's containers."
)
@click.option(
    "--batch", type=int, default=2000, show_default=True, help="Runs, users and so on in one transaction."
)
@json_option
def reana(
    uri: str,
    dry_run: bool,
    report: Path | None,
    decisions: Path | None,
    old_key_file: Path | None,
    zone: str,
    batch: int,
    as_json: bool,
) -> None:
    """Bring this database to what a live one of REANA holds now, and compare what arrived.

    Everything is checked before anything is written, and REANA's database is never written to. Run it while
    REANA works, and again for what has changed since; the last time with REANA's services stopped. It can be
    killed at any time: the next run does the rest. It takes the tables' owner: PLATFORM_DB_MIGRATION_URI.
    """
    from platform_db import database
    from platform_db.cli.progress import show_progress
    from platform_db.integrations.reana import Options, import_reana
    from platform_db.integrations.reana.secrets import read_old_key

    options = Options(read_old_key(old_key_file), decisions, zone, batch)
    factory = session_factory(database.migration_url())
    with shown_report(report, as_json) as made, show_progress("keys", quiet=as_json) as progress:
        import_reana(uri, factory, options, made, dry_run=dry_run, progress=progress)


@import_.command(example="import redun --from sqlite:///.redun/redun.db --user ada@example.org")
@source_options(
    REDUN_VARIABLE,
    "redun's database: what is db_uri in its redun.ini; a file's path is from here.",
    "that does not move as it is",
)
@user_option("Whose the rows are to be", required=True)
@click.option(
    "--value-store", metavar="DIRECTORY", help="Copy values from here: value_store_path in redun.ini."
)
@click.option("--no-value-store", is_flag=True, help="Take values that are empty as they are.")
@click.option("--batch", type=int, default=5000, show_default=True, help="Rows in one transaction.")
@json_option
def redun(
    uri: str,
    user: str,
    dry_run: bool,
    report: Path | None,
    value_store: str | None,
    no_value_store: bool,
    batch: int,
    as_json: bool,
) -> None:
    """Add all that a redun database holds to what a user has, and compare what arrived.

    redun's database is never written to, and nothing of the user's is removed: several may move to one user.
    It can be killed at any time, and run again for what has come since. It takes the tables' owner:
    PLATFORM_DB_MIGRATION_URI.
    """
    from platform_db import database
    from platform_db.cli.progress import show_progress
    from platform_db.integrations.redun_import import import_redun
    from platform_db.users import find_user

    factory = session_factory(database.migration_url())
    with factory() as session:
        owner_id = find_user(session, user).id_
    with shown_report(report, as_json) as made, show_progress("rows", quiet=as_json) as progress:
        import_redun(
            uri,
            factory,
            owner_id,
            made,
            value_store=value_store,
            no_value_store=no_value_store,
            dry_run=dry_run,
            progress=progress,
            batch=batch,
        )
