"""What the database does by itself: the files of SQL, and what is attached to each table of a kind.

A file of ``sql/`` is a concept: its functions, and the triggers of single tables. What only repeats with
another table's name is attached here: a function that takes its facts as trigger arguments, and one policy
for every tenant. Revisions have all of it frozen; a test compares a database that they made with this.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

from platform_db.models import Base
from platform_db.models.base import CURRENT_TENANT
from platform_db.schema.scripts import read_statements
from platform_db.states import JOB_TIMES, MACHINES, RUN_TIMES, Machine, Status

TENANT_POLICY = "tenant"

# What tables depend on: a generated column calls it.
BEFORE_TABLES = ("job_cache",)

# In an order in which each finds what it calls.
AFTER_TABLES = (
    "nodes",
    "stamps",
    "run_numbers",
    "guard",
    "history",
    "leases",
    "workspace_retention",
    "progress",
    "dependencies",
    "storage",
    "tokens",
    "secrets",
    "audit",
    "task_records",
    "events",
    "queue",
    "versions",
    "completed_results",
    "provenance",
    "logs",
    "activity",
    "redun",
    "estimates",
)

# The views in the schema of redun's names: what its ORM writes, and the versions that it reads.
REDUN_VIEWS = (
    "argument",
    "argument_result",
    "call_edge",
    "call_node",
    "call_subtree_task",
    "evaluation",
    "execution",
    "file",
    "handle",
    "handle_edge",
    "job",
    "subvalue",
    "tag",
    "tag_edit",
    "task",
    "value",
)
REDUN_VERSIONS = ("alembic_version", "redun_version")

SCHEMAS = ("platform", "redun")

# The schema of tables that no role but their owner may reach.
PARTITIONS = "platform_partitions"

_SQL = files("platform_db.schema") / "sql"

_TIMES = {RUN_TIMES: "run", JOB_TIMES: "job", (): "none"}


def before_tables() -> list[str]:
    """Return the statements that create what tables depend on."""
    return [statement for name in BEFORE_TABLES for statement in read_statements(_SQL / f"{name}.sql")]


def after_tables() -> list[str]:
    """Return the statements that create what depends on tables."""
    return [
        *(statement for name in AFTER_TABLES for statement in read_statements(_SQL / f"{name}.sql")),
        *_attached(),
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA platform FROM PUBLIC",
    ]


def _attached() -> Iterator[str]:
    for table in sorted(Base.metadata.tables.values(), key=lambda table: table.name):
        if "updated" in table.columns:
            yield f"""\
CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.{table.name}
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row()"""
            unguarded = "WHEN (OLD.status = NEW.status) " if table.name in MACHINES else ""
            yield f"""\
CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.{table.name}
    FOR EACH ROW {unguarded}EXECUTE FUNCTION platform.stamp_row()"""
    for machine in MACHINES.values():
        yield from _guard(machine)
    for table_name, column in tenant_columns().items():
        yield f"ALTER TABLE platform.{table_name} ENABLE ROW LEVEL SECURITY"
        yield policy_statement(table_name, column)


def policy_statement(table: str, column: str) -> str:
    """Return the statement that creates the tenants' policy on a table: it is the same on every one."""
    return f"""\
CREATE POLICY {TENANT_POLICY} ON platform.{table}
    USING ({column} = {CURRENT_TENANT})
    WITH CHECK ({column} = {CURRENT_TENANT})"""


def _guard(machine: Machine[Status]) -> Iterator[str]:
    """Yield the triggers that guard a status, record its changes, and forget them with the row."""
    entity = machine.entity
    legal = [
        f"{old.value}>{new.value}"
        for old in machine.statuses
        for new in machine.statuses
        if new in machine.transitions[old]
    ]
    named = ", ".join(f"'{pair}'" for pair in legal)
    guard = f"platform.guard_status('{entity}', '{_TIMES[machine.times]}', {named})"
    yield f"""\
CREATE TRIGGER guard_insert BEFORE INSERT ON platform.{entity}
    FOR EACH ROW EXECUTE FUNCTION {guard}"""
    yield f"""\
CREATE TRIGGER guard_update BEFORE UPDATE OF status, revision ON platform.{entity}
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION {guard}"""
    yield f"""\
CREATE TRIGGER guard_identity BEFORE UPDATE OF owner_id, id_ ON platform.{entity}
    FOR EACH ROW WHEN (OLD.owner_id <> NEW.owner_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity('{entity}')"""
    yield f"""\
CREATE TRIGGER record_status AFTER UPDATE OF status ON platform.{entity}
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('{entity}', ' {" ".join(legal)} ')"""
    yield f"""\
CREATE TRIGGER forget AFTER DELETE ON platform.{entity}
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget('{entity}')"""
    if machine.is_leased:
        yield f"""\
CREATE TRIGGER record_creation AFTER INSERT ON platform.{entity}
    REFERENCING NEW TABLE AS created
    FOR EACH STATEMENT EXECUTE FUNCTION platform.record_creation('{entity}')"""
        yield f"""\
CREATE TRIGGER record_deletion AFTER DELETE ON platform.{entity}
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.record_deletion('{entity}')"""
        alive = ", ".join(f"'{status.value}'" for status in machine.alive)
        yield f"""\
CREATE TRIGGER drop_former_lease AFTER UPDATE OF status ON platform.{entity}
    FOR EACH ROW WHEN (OLD.status NOT IN ({alive}) AND NEW.status IN ({alive}))
    EXECUTE FUNCTION platform.drop_former_lease('{entity}')"""


def qualified(name: str) -> str:
    """Return the name of a table or view with its schema, which is ``platform`` where none is named."""
    return name if "." in name else f"platform.{name}"


def tenant_columns() -> dict[str, str]:
    """Return the column that names the tenant, by table; a user's own row is the user's, too."""
    tables = [table.name for table in Base.metadata.tables.values() if "owner_id" in table.columns]
    return dict(sorted({**dict.fromkeys(tables, "owner_id"), "user_": "id_"}.items()))
