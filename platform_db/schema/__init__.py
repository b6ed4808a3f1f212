"""How the schema gets into a database, and whether it is there."""

from platform_db.schema.agreement import adopt, require_agreement
from platform_db.schema.migrating import (
    lock_for_migration,
    migrating,
    retry_while_blocked,
    set_timeouts,
)
from platform_db.schema.pending import PHASES
from platform_db.schema.revision_names import require_new_number, require_revision
from platform_db.schema.status import (
    SchemaState,
    SchemaStatus,
    connect,
    next_revision,
    refuse_newer,
    revisions,
    serves_comment,
    status,
)
from platform_db.schema.upgrade import (
    alembic_config,
    downgrade,
    init_db,
    upgrade,
    upgrade_new,
)
from platform_db.schema.waiting import wait_until_ready

__all__ = [
    "PHASES",
    "SchemaState",
    "SchemaStatus",
    "adopt",
    "alembic_config",
    "connect",
    "downgrade",
    "init_db",
    "lock_for_migration",
    "migrating",
    "next_revision",
    "refuse_newer",
    "require_agreement",
    "require_new_number",
    "require_revision",
    "retry_while_blocked",
    "revisions",
    "serves_comment",
    "set_timeouts",
    "status",
    "upgrade",
    "upgrade_new",
    "wait_until_ready",
]
