"""redun's call graph and cache on platform-db, one line in ``redun.ini``::

    [scheduler]
    setup_scheduler = platform_db.integrations.redun::setup_scheduler

    [backend]
    owner = ada@example.org

or the database's own address, which names the owner too::

    [backend]
    db_uri = platformdb://configured?owner=ada@example.org
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redun import Scheduler
    from redun.config import Config

__all__ = ["setup_scheduler"]


def setup_scheduler(config: Config) -> Scheduler:
    """Return a scheduler whose call graph and cache are in platform-db's database.

    A ``db_uri`` that is not platform-db's own, such as the one of SQLite that redun writes into a new
    configuration, gives way to the configured database.

    :param config: with ``owner``, a user's id or e-mail address, in ``[backend]`` or in the ``db_uri``.
    :raises errors.InvalidSetting: no owner is named.
    """
    from redun import Scheduler
    from redun.config import create_config_section

    from platform_db.integrations.redun import address, dispatch

    dispatch.install()
    backend = config.get("backend")
    if backend is None:
        backend = config["backend"] = create_config_section()
    if not address.is_ours(backend.get("db_uri", "")):
        backend["db_uri"] = address.CONFIGURED
    # In the address, so that a sub-scheduler in another process has it, too.
    backend["db_uri"] = address.parse(backend["db_uri"], backend).text
    return Scheduler(config=config)
