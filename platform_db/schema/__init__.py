"""How the schema gets into a database, and whether it is there."""

from platform_db.schema.agreement import adopt, require_agreement
from platform_db.schema.revision_names import require_new_number, require_revision
from platform_db.schema.status import (
    SchemaState,
    SchemaStatus,
    connect,
    next_revision,
    refuse_newer,
    revisions,
    status,
)
from platform_db.schema.upgrade import (
    alembic_config,
    downgrade,
    init_db,
    lock_for_migration,
    upgrade,
    upgrade_new,
)
from platform_db.schema.waiting import wait_until_ready

__all__ = [
    "SchemaState",
    "SchemaStatus",
    "adopt",
    "alembic_config",
    "connect",
    "downgrade",
    "init_db",
    "lock_for_migration",
    "next_revision",
    "refuse_newer",
    "require_agreement",
    "require_new_number",
    "require_revision",
    "revisions",
    "status",
    "upgrade",
    "upgrade_new",
    "wait_until_ready",
]
