"""What the tests' processes use, imported once in the server that they are forked from.

Starting an interpreter each would take longer than most of the work, and forking the test's own process would
share its connections. No database is configured here, and nothing is connected.
"""

import pkgutil
from importlib import import_module

from sqlalchemy import orm

from platform_db.cli import commands

for name in (
    "alembic.command",
    "hypothesis",
    "platform_db.events",
    "platform_db.leases",
    "platform_db.models",
    "platform_db.provenance",
    "platform_db.retention",
    "platform_db.settings.environment",
    "platform_db.tasks",
    "platform_db.workflows",
    "psycopg2",
    "pytest",
    "tests.factories",
    "tests.forked_programs",
    *(module.name for module in pkgutil.iter_modules(commands.__path__, "platform_db.cli.commands.")),
):
    import_module(name)
orm.configure_mappers()
