"""The URL of another database than the configured one, as an option or in the environment."""

from __future__ import annotations

import click
from click.core import ParameterSource


def refuse_password(context: click.Context, parameter: click.Parameter, uri: str) -> str:
    """Refuse a password among the arguments, which other users of the machine see."""
    from platform_db.database.url import normalise_url
    from platform_db.errors import SECRET_OPTIONS

    if uri.startswith(("sqlite", "embedded")):  # which have no passwords
        return uri
    url = normalise_url(uri)
    is_argument = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    if is_argument and (url.password is not None or url.query.keys() & {*SECRET_OPTIONS}):
        raise click.BadParameter(
            "it has a password, which other users of the machine have now seen. "
            f"Passwords come from {parameter.envvar}, PGPASSWORD or ~/.pgpass."
        )
    return uri
