"""``platform-db import``: moving the data of another platform here."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from platform_db.cli.command import group
from platform_db.cli.database import session_factory
from platform_db.cli.options import json_option
from platform_db.cli.show import columns, show_rows

SOURCE_VARIABLE = "REANA_SQLALCHEMY_DATABASE_URI"

import_ = group("import")


def refuse_password(context: click.Context, parameter: click.Parameter, uri: str) -> str:
    """Refuse a password among the arguments, which other users of the machine see."""
    from platform_db.database.url import SECRET_OPTIONS, normalise_url

    url = normalise_url(uri)
    is_argument = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    if is_argument and (url.password is not None or url.query.keys() & {*SECRET_OPTIONS}):
        raise click.BadParameter(
            "it has a password, which other users of the machine have now seen. "
            f"Passwords come from {SOURCE_VARIABLE}, PGPASSWORD or ~/.pgpass."
        )
    return uri


_file = click.Path(path_type=Path, dir_okay=False)


@import_.command(example="import reana --from postgresql://reana@reana-db/reana --dry-run")
@click.option(
    "--from",
    "uri",
    metavar="URI",
    envvar=SOURCE_VARIABLE,
    show_envvar=True,
    required=True,
    callback=refuse_password,
    help="REANA's database. Its password comes from the variable, PGPASSWORD or ~/.pgpass.",
)
@click.option("--dry-run", is_flag=True, help="Check every row, and write nothing.")
@click.option("--report", type=_file, help="Write a line of JSON here for each row that moves or does not.")
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
    from platform_db import database, errors
    from platform_db.cli.progress import show_progress
    from platform_db.integrations.reana import Options, Report, import_reana
    from platform_db.integrations.reana.secrets import read_old_key

    options = Options(read_old_key(old_key_file), decisions, zone, batch)
    factory = session_factory(database.migration_url())
    with Report.to(report) as made:
        try:
            with show_progress("keys", quiet=as_json) as progress:
                import_reana(uri, factory, options, made, dry_run=dry_run, progress=progress)
        finally:
            names = ("table", "rows", "written", "removed", "transformed", "refused", "left_out")
            show_rows(made.summary(), as_json, columns(*names))
    if refused := sum(made.counts["refused"].values()):
        where = f"{report} names them" if report else "--report FILE names them"
        raise errors.PartialFailure(f"{refused} rows were refused", hint=where)
