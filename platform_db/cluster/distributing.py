"""Turning a migrated database, empty or full, into a distributed one.

What is to be done is read from the catalogues, and done in one transaction: so a second run does what is
left, such as the tables of a later revision, and a run that was stopped has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from platform_db import database, errors, schema
from platform_db.schema.placement import (
    COORDINATOR_FUNCTIONS,
    SEQUENCES,
    SETTINGS,
    Placement,
    cluster_statements,
    placements,
    trigger_statements,
    without_set_null,
)
from platform_db.tenancy.privileges import CALLED_AS_OWNER, OTHERS, Role, role_name


def distribute(
    url: URL | str | None = None, report: Callable[[str], None] | None = None, *, dry_run: bool = False
) -> list[str]:
    """Distribute what is not distributed yet, and return the statements that this takes.

    All tables are locked until it ends: tenants' rows are copied to the nodes. It takes a direct connection
    to the coordinator, as the owner of the tables.

    :param url: the database on the coordinator; by default the one that migrations use.
    :param report: is told of each statement.
    :param dry_run: change nothing.
    :raises errors.CitusMissing: the database has no Citus, or Citus has no nodes.
    :raises errors.SchemaBehind: the schema is older than the code.
    :raises errors.MigrationBlocked: other sessions keep a table longer than ``PLATFORM_DB_MIGRATION_WAIT``.
    """
    with schema.connect(url or database.migration_url(), options="") as connection:
        schema.status(connection).require_current()
        require_citus(connection)
        statements = _statements(connection)
        connection.rollback()
        if statements and not dry_run:
            with schema.migrating(connection):
                schema.retry_while_blocked(connection, lambda: _distribute(connection, report, statements))
    return statements


def _distribute(connection: Connection, report: Callable[[str], None] | None, statements: list[str]) -> None:
    """Do what is left when the tables are locked, and put it into ``statements``."""
    if wanted := _wanted(read_placements(connection)):
        # First, since a table that is empty when it is looked at is not copied as one with rows.
        names = ", ".join(f"platform.{table}" for table in wanted)
        connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
    statements[:] = _statements(connection)
    for statement in (*_FOR_DISTRIBUTING, *statements):
        if report is not None and statement not in _FOR_DISTRIBUTING:
            report(statement.partition("\n")[0])
        connection.exec_driver_sql(statement.replace("%", "%%"))
    connection.commit()


def require_citus(connection: Connection) -> None:
    """Raise an error unless this is a coordinator that has nodes to put tenants' rows on.

    :raises errors.CitusMissing: says what is missing.
    """
    if not connection.scalar(sa.text("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')")):
        raise errors.CitusMissing
    if not connection.scalar(_IS_COORDINATOR):
        raise errors.CitusMissing("this node is not the coordinator of a Citus cluster with nodes for shards")


def _statements(connection: Connection) -> list[str]:
    return [
        *_database_settings(connection),
        *_roles(connection),
        *_functions(connection),
        *_tables(connection),
    ]


def _database_settings(connection: Connection) -> Iterator[str]:
    stored = set(connection.scalars(_READ_SETTINGS))
    name = connection.scalar(sa.text("SELECT quote_ident(current_database())"))
    for setting, value in SETTINGS.items():
        if f"{setting}={value}" not in stored:
            yield f"ALTER DATABASE {name} SET {setting} = '{value}'"


def _functions(connection: Connection) -> Iterator[str]:
    """Yield what makes each function that triggers call, on every node, before any trigger is there."""
    bodies = set(connection.scalars(_READ_BODIES))
    roles = [role_name(role) for role in OTHERS["common function"]]
    callers = sorted(connection.scalars(_READ_ROLES, {"names": roles}))
    for statement in cluster_statements():
        if statement.partition("$$")[2].removesuffix("$$") not in bodies:
            yield statement
            name = statement.partition("FUNCTION ")[2].partition("(")[0]
            yield f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC"
            if callers and name.removeprefix("platform.") in CALLED_AS_OWNER["common"]:
                yield f"GRANT EXECUTE ON FUNCTION {name} TO {', '.join(callers)}"
    missing = connection.scalars(_READ_FUNCTIONS, {"left_out": list(COORDINATOR_FUNCTIONS)})
    yield from (f"SELECT create_distributed_function('{function}')" for function in missing)
    if "release_reference" not in connection.scalars(_READ_FUNCTION_NAMES).all():
        yield "SELECT create_distributed_function('platform.release_reference()')"


def _tables(connection: Connection) -> Iterator[str]:
    placed = read_placements(connection)
    wanted = _wanted(placed)
    new = [table for table, where in wanted.items() if where is Placement.distributed]
    used = {row.name for row in connection.execute(_READ_USED, {"tables": list(wanted)}) if row.is_used}
    for sequence, (table, column) in SEQUENCES.items():
        if table in new:
            # So the sequence is on each node, and stays there without the default.
            yield f"ALTER TABLE platform.{table} ALTER {column} SET DEFAULT nextval('platform.{sequence}')"
    later, triggers = list[str](), list[str]()
    copied = [table for table, where in wanted.items() if table in used and where is not Placement.local]
    referring = connection.scalars(_READ_REFERRING).all()
    # Copying rows to the nodes would fire them, and so would truncating what then is left of the tables.
    for trigger in connection.execute(_READ_FIRING, {"tables": [*copied, *referring]}):
        yield f"DROP TRIGGER {trigger.name} ON platform.{trigger.table}"
        triggers.append(trigger.definition)
    for constraint in connection.execute(_READ_CONSTRAINTS, {"tables": new}):
        table, name, definition = constraint.table, constraint.name, constraint.definition
        yield f"ALTER TABLE platform.{table} DROP CONSTRAINT {name}"
        if constraint.is_foreign:
            if "ON DELETE SET NULL" in definition:
                definition = without_set_null(definition)
            later.append(f"ALTER TABLE platform.{table} ADD CONSTRAINT {name} {definition}")
        else:
            yield f"CREATE INDEX {name} ON platform.{table} {definition.removeprefix('UNIQUE ')}"
    for table, where in wanted.items():
        if where is Placement.reference:
            yield f"SELECT create_reference_table('platform.{table}')"
    with_them = next((table for table, where in placed.items() if where is Placement.distributed), None)
    for table in new:
        beside = f"platform.{with_them}" if with_them else "none"
        yield (
            f"SELECT create_distributed_table('platform.{table}', 'owner_id', colocate_with => '{beside}')"
        )
        with_them = with_them or table
    yield from later
    defaults = {row.column: row.definition for row in connection.execute(_READ_DEFAULTS)}
    for table, column in SEQUENCES.values():
        if table in new:
            default = defaults.get(f"{table}.{column}")
            back = "DROP DEFAULT" if default is None else f"SET DEFAULT {default}"
            yield f"ALTER TABLE platform.{table} ALTER {column} {back}"
    for table in referring:
        yield (
            f"SELECT citus_add_local_table_to_metadata('platform.{table}', cascade_via_foreign_keys => true)"
        )
    yield from (
        f"SELECT truncate_local_data_after_distributing_table('platform.{table}')" for table in copied
    )
    yield from triggers
    there = set(connection.scalars(_READ_TRIGGERS))
    yield from (statement for name, statement in trigger_statements().items() if name not in there)


def _wanted(placed: Mapping[str, Placement]) -> dict[str, Placement]:
    """Return where those tables are to be that are elsewhere, parents first."""
    return {table: where for table, where in placements().items() if placed.get(table) is not where}


def _roles(connection: Connection) -> Iterator[str]:
    """Yield what makes the roles on the other nodes, too: Citus logs in there as a session's role."""
    roles = [role_name(role) for role in Role]
    tenant = role_name(Role.tenant)
    if connection.scalar(_LACKS_LOGIN, {"role": tenant}):
        yield f"ALTER ROLE {tenant} LOGIN"
    there = set(connection.scalars(_READ_ROLES, {"names": roles}))
    asked = ", ".join(f"'{role}'" for role in roles)
    question = (
        f"SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname IN ({asked})"
        f" AND (rolcanlogin OR rolname <> '{tenant}')"
    )
    answers = connection.scalars(_ON_WORKERS, {"statement": question}).all()
    for role in sorted(there - set.intersection(*(set((answer or "").split()) for answer in answers))):
        yield (
            "SELECT run_command_on_workers($statement$ DO $$ BEGIN"
            " PERFORM set_config('citus.enable_ddl_propagation', 'off', true),"
            " set_config('citus.enable_alter_role_propagation', 'off', true);"
            # What follows may end a block in an error, and that takes back the settings of the block.
            f" BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END;"
            # Citus may have made it there when it was made here, before it could log in.
            f"{f' ALTER ROLE {role} LOGIN;' if role == tenant else ''} END $$ $statement$)"
        )


def read_placements(connection: Connection) -> dict[str, Placement]:
    """Return where each table of the schema is now, by name."""
    return {row.name: Placement(row.placement) for row in connection.execute(_READ_PLACEMENTS)}


# Each for the transaction alone.
_FOR_DISTRIBUTING = (
    "SET LOCAL citus.multi_shard_modify_mode = 'sequential'",
    # Else all that refers to a reference table is made one of the coordinator's first.
    "SET LOCAL citus.enable_local_reference_table_foreign_keys = off",
    # It takes triggers to be unsafe, since one may write rows that are elsewhere. Ours do not.
    "SET LOCAL citus.enable_unsafe_triggers = on",
    "SET LOCAL citus.enable_ddl_propagation = on",
    "SET LOCAL citus.enable_alter_role_propagation = off",
    "SET LOCAL client_min_messages = warning",
)

_IS_COORDINATOR = sa.text("""
    SELECT (SELECT groupid = 0 FROM pg_dist_local_group)
       AND EXISTS (SELECT FROM pg_dist_node WHERE groupid = 0)
       AND EXISTS (SELECT FROM pg_dist_node WHERE isactive AND shouldhaveshards)
    """)

_READ_SETTINGS = sa.text("""
    SELECT unnest(setconfig) FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
    WHERE datname = current_database() AND setrole = 0
    """)

_READ_BODIES = sa.text("SELECT prosrc FROM pg_proc WHERE pronamespace = 'platform'::regnamespace")

_READ_FUNCTION_NAMES = sa.text("SELECT proname FROM pg_proc WHERE pronamespace = 'platform'::regnamespace")

# One that is no text depends on what it calls, which is older.
_READ_FUNCTIONS = sa.text("""
    SELECT oid::regprocedure::text FROM pg_proc
    WHERE pronamespace = 'platform'::regnamespace AND proname <> ALL (:left_out)
      AND NOT EXISTS (SELECT FROM pg_dist_object WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid)
    ORDER BY oid
    """)

_READ_PLACEMENTS = sa.text("""
    SELECT relname AS name,
           CASE WHEN partmethod = 'h' THEN 'distributed' WHEN repmodel = 't' THEN 'reference' ELSE 'local' END
               AS placement
    FROM pg_class LEFT JOIN pg_dist_partition ON logicalrelid = pg_class.oid
    WHERE relnamespace = 'platform'::regnamespace AND relkind IN ('r', 'p')
    """)

_READ_USED = sa.text("""
    SELECT relname AS name,
           EXISTS (SELECT FROM pg_partition_tree(pg_class.oid) WHERE pg_relation_size(relid) > 0)
           OR pg_relation_size(pg_class.oid) > 0 AS is_used
    FROM pg_class
    WHERE relnamespace = 'platform'::regnamespace AND relname = ANY (:tables)
    """)

# What Citus takes not at all, or not yet: what is unique over all owners, foreign keys to what comes later,
# those that set a column to NULL, and those that are looked at when the copying transaction ends.
_READ_CONSTRAINTS = sa.text("""
    SELECT relname AS table, conname AS name, pg_get_constraintdef(pg_constraint.oid) AS definition,
           contype = 'f' AS is_foreign
    FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
    WHERE relnamespace = 'platform'::regnamespace AND relname = ANY (:tables)
      AND CASE contype
          WHEN 'u' THEN NOT EXISTS (
              SELECT FROM pg_attribute
              WHERE attrelid = conrelid AND attnum = ANY (conkey) AND attname = 'owner_id')
          WHEN 'f' THEN confdeltype = 'n' OR condeferrable OR coalesce(
              array_position(CAST(:tables AS name[]), (SELECT relname FROM pg_class WHERE oid = confrelid))
              > array_position(CAST(:tables AS name[]), relname), false)
          ELSE false END
    ORDER BY relname, conname
    """)

# Tables of the coordinator that refer to a reference table: Citus must know them.
_READ_REFERRING = sa.text("""
    SELECT DISTINCT referring.relname
    FROM pg_constraint
    JOIN pg_class AS referring ON referring.oid = conrelid
    JOIN pg_class AS referred ON referred.oid = confrelid
    WHERE contype = 'f' AND referring.relnamespace = 'platform'::regnamespace
      AND referred.relname = ANY (:referenced) AND referring.relname = ANY (:local)
      AND NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = conrelid)
    ORDER BY referring.relname
    """).bindparams(
    referenced=[table for table, where in placements().items() if where is Placement.reference],
    local=[table for table, where in placements().items() if where is Placement.local],
)

_READ_DEFAULTS = sa.text("""
    SELECT relname || '.' || attname AS column, pg_get_expr(adbin, adrelid) AS definition
    FROM pg_attrdef JOIN pg_class ON pg_class.oid = adrelid
    JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
    WHERE relnamespace = 'platform'::regnamespace
    """)

_READ_FIRING = sa.text("""
    SELECT relname AS table, tgname AS name, pg_get_triggerdef(pg_trigger.oid) AS definition
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE relnamespace = 'platform'::regnamespace AND relname = ANY (:tables) AND NOT tgisinternal
    ORDER BY relname, tgname
    """)

_READ_TRIGGERS = sa.text("""
    SELECT tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE relnamespace = 'platform'::regnamespace AND NOT tgisinternal
    """)

_READ_ROLES = sa.text("SELECT rolname FROM pg_roles WHERE rolname = ANY (:names)")

_LACKS_LOGIN = sa.text("SELECT NOT rolcanlogin FROM pg_roles WHERE rolname = :role")

_ON_WORKERS = sa.text("SELECT result FROM run_command_on_workers(:statement)")
