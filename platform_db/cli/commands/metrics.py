"""``platform-db metrics``: serving metrics of the database."""

from __future__ import annotations

import click

from platform_db.cli.command import group

metrics = group("metrics")


@metrics.command(example="metrics serve --address 127.0.0.1 --port 9187")
@click.option("--address", default="0.0.0.0", show_default=True, help="The address to listen on.")  # noqa: S104
@click.option(
    "--port", type=click.IntRange(0, 65535), default=9187, show_default=True, help="0 takes a free one."
)
@click.option(
    "--tenants",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    help="Also serve the runs of so many tenants: those with the most active ones.",
)
def serve(address: str, port: int, tenants: int) -> None:
    """Serve /metrics for Prometheus, and the probes /healthz and /readyz.

    It goes on until a signal ends it. It uses one connection, another for /readyz, and needs a login that may
    only read. Where the database is away, platform_db_up is 0.
    """
    from platform_db import errors

    try:
        from platform_db.metrics.serving import serve
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise errors.PlatformDBError(
            "metrics need the library prometheus-client", hint="pip install 'platform-db[metrics]'"
        ) from None
    serve(address, port, tenants=tenants, report=click.echo)
