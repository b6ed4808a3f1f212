"""What the database does by itself, beside tables and indexes: functions, triggers and policies.

Migrations create these objects from statements of their own, which never change once they are released. The
test that compares a migrated database with the models creates them from here.
"""

from __future__ import annotations

from platform_db.models.append_only import append_only_statements
from platform_db.models.base import Base
from platform_db.models.guard import guard_statements
from platform_db.models.policies import policy_statements
from platform_db.types import SCHEMA

# convert_to() is marked stable because it depends on the name of an encoding; with a constant one it is not.
_JOB_CACHE_DIGEST = f"""\
CREATE FUNCTION {SCHEMA}.job_cache_digest(parameters text, workspace_hash text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN sha256(sha256(convert_to(parameters, 'UTF8')) || sha256(convert_to(workspace_hash, 'UTF8')));"""

_TOUCH = f"""\
CREATE FUNCTION {SCHEMA}.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated := now();
    RETURN NEW;
END
$$;"""

# In PL/pgSQL, which keeps the plans of its statements: an SQL function plans anew at every call.
_RETENTION = [
    f"""\
CREATE FUNCTION {SCHEMA}.activate_workspace_retention_rules(owner uuid, workflow uuid) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE {SCHEMA}.workspace_retention_rule
    SET status = 'active',
        apply_on = (date_trunc('day', now() AT TIME ZONE 'UTC') + make_interval(days => retention_days + 1))
                   AT TIME ZONE 'UTC'
    WHERE owner_id = owner AND workflow_id = workflow AND status = 'created';
END
$$;""",
    f"""\
CREATE FUNCTION {SCHEMA}.inactivate_workspace_retention_rules(owner uuid, path text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE {SCHEMA}.workspace_retention_rule AS rule
    SET status = 'inactive'
    FROM {SCHEMA}.workflow
    WHERE workflow.owner_id = owner AND workflow.workspace_path = path
      AND rule.owner_id = owner AND rule.workflow_id = workflow.id_
      AND rule.status IN ('created', 'active');
END
$$;""",
    f"""\
CREATE FUNCTION {SCHEMA}.follow_run_with_retention() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM {SCHEMA}.workspace_retention_rule WHERE owner_id = NEW.owner_id) THEN
        RETURN NULL; -- Most owners have none: looking costs a third of an UPDATE that finds nothing.
    ELSIF NEW.status IN ('finished', 'failed') THEN
        PERFORM {SCHEMA}.activate_workspace_retention_rules(NEW.owner_id, NEW.id_);
    ELSE
        PERFORM {SCHEMA}.inactivate_workspace_retention_rules(NEW.owner_id, NEW.workspace_path);
    END IF;
    RETURN NULL;
END
$$;""",
    f"""\
CREATE TRIGGER retention_on_end AFTER UPDATE OF status ON {SCHEMA}.workflow
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND (
        NEW.status IN ('finished', 'failed')
        OR (NEW.status = 'running' AND OLD.status IN ('finished', 'failed'))))
    EXECUTE FUNCTION {SCHEMA}.follow_run_with_retention();""",
    f"""\
CREATE TRIGGER retention_on_restart AFTER INSERT ON {SCHEMA}.workflow
    FOR EACH ROW WHEN (NEW.restart AND NEW.status NOT IN ('finished', 'failed'))
    EXECUTE FUNCTION {SCHEMA}.follow_run_with_retention();""",
    f"""\
CREATE FUNCTION {SCHEMA}.record_workspace_retention() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {SCHEMA}.workspace_retention_audit_log
        (owner_id, workspace_retention_rule_id, status, retention_days, apply_on)
    VALUES (NEW.owner_id, NEW.id_, NEW.status, NEW.retention_days, NEW.apply_on);
    RETURN NULL;
END
$$;""",
    f"""\
CREATE TRIGGER record_workspace_retention
    AFTER INSERT OR UPDATE OF status, retention_days, apply_on ON {SCHEMA}.workspace_retention_rule
    FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.record_workspace_retention();""",
]


def before_tables() -> list[str]:
    """Return the statements that create what tables depend on."""
    return [_JOB_CACHE_DIGEST]


def after_tables() -> list[str]:
    """Return the statements that create what depends on tables."""
    touched = sorted(table.name for table in Base.metadata.tables.values() if "updated" in table.columns)
    return [
        _TOUCH,
        *(
            f"""\
CREATE TRIGGER touch_{table} BEFORE UPDATE ON {SCHEMA}.{table}
    FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.touch();"""
            for table in touched
        ),
        *guard_statements(),
        *_RETENTION,
        *append_only_statements(),
        *policy_statements(),
    ]
