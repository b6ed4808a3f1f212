"""What the database does by itself, beside tables and indexes: functions, triggers and policies.

Migrations create these objects from statements of their own, which never change once they are released. The
test that compares a migrated database with the models creates them from here.
"""

from __future__ import annotations

from platform_db.crypto.keys import KEY_ID_BYTES
from platform_db.models.base import STORAGE, Base
from platform_db.models.lease import lease_statements
from platform_db.models.policies import policy_statements, tenant_columns
from platform_db.models.run_number import RUN_NUMBER_FUNCTIONS
from platform_db.schema.append_only import append_only_statements
from platform_db.schema.guard import guard_statements
from platform_db.schema.recording import recording_statements

# convert_to() is marked stable because it depends on the name of an encoding; with a constant one it is not.
_JOB_CACHE_DIGEST = """\
CREATE FUNCTION platform.job_cache_digest(parameters text, workspace_hash text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN sha256(sha256(convert_to(parameters, 'UTF8')) || sha256(convert_to(workspace_hash, 'UTF8')));"""

_TOUCH = """\
CREATE FUNCTION platform.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated := now();
    RETURN NEW;
END
$$;"""

# In PL/pgSQL, which keeps the plans of its statements: an SQL function plans anew at every call.
_RETENTION = [
    """\
CREATE FUNCTION platform.activate_workspace_retention_rules(owner uuid, workflow uuid) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM platform.workspace_retention_rule
    WHERE owner_id = owner AND workflow_id = workflow AND status = 'created'
    ORDER BY id_ FOR UPDATE;
    UPDATE platform.workspace_retention_rule
    SET status = 'active',
        apply_on = (date_trunc('day', now() AT TIME ZONE 'UTC') + make_interval(days => retention_days + 1))
                   AT TIME ZONE 'UTC'
    WHERE owner_id = owner AND workflow_id = workflow AND status = 'created';
END
$$;""",
    """\
CREATE FUNCTION platform.inactivate_workspace_retention_rules(owner uuid, path text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM platform.workspace_retention_rule AS rule
    JOIN platform.workflow ON workflow.owner_id = rule.owner_id AND workflow.id_ = rule.workflow_id
    WHERE rule.owner_id = owner AND workflow.workspace_path = path
      AND rule.status IN ('created', 'active', 'pending')
    ORDER BY rule.id_ FOR UPDATE OF rule;
    UPDATE platform.workspace_retention_rule AS rule
    SET status = 'inactive'
    FROM platform.workflow
    WHERE workflow.owner_id = owner AND workflow.workspace_path = path
      AND rule.owner_id = owner AND rule.workflow_id = workflow.id_
      AND rule.status IN ('created', 'active', 'pending');
END
$$;""",
    """\
CREATE FUNCTION platform.move_retention_date() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.apply_on := OLD.apply_on + make_interval(days => NEW.retention_days - OLD.retention_days);
    RETURN NEW;
END
$$;""",
    """\
CREATE TRIGGER move_retention_date BEFORE UPDATE OF retention_days ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (
        OLD.retention_days <> NEW.retention_days AND OLD.apply_on = NEW.apply_on
        AND NEW.retention_days BETWEEN 0 AND 36500)
    EXECUTE FUNCTION platform.move_retention_date();""",
    """\
CREATE FUNCTION platform.follow_run_with_retention() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM platform.workspace_retention_rule WHERE owner_id = NEW.owner_id) THEN
        RETURN NULL; -- Most owners have none: looking costs a third of an UPDATE that finds nothing.
    ELSIF NEW.status IN ('finished', 'failed') THEN
        PERFORM platform.activate_workspace_retention_rules(NEW.owner_id, NEW.id_);
    ELSE
        PERFORM platform.inactivate_workspace_retention_rules(NEW.owner_id, NEW.workspace_path);
    END IF;
    RETURN NULL;
END
$$;""",
    """\
CREATE TRIGGER retention_on_end AFTER UPDATE OF status ON platform.workflow
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND (
        NEW.status IN ('finished', 'failed')
        OR (NEW.status = 'running' AND OLD.status IN ('finished', 'failed'))))
    EXECUTE FUNCTION platform.follow_run_with_retention();""",
    """\
CREATE TRIGGER retention_on_restart AFTER INSERT ON platform.workflow
    FOR EACH ROW WHEN (NEW.restart AND NEW.status NOT IN ('finished', 'failed'))
    EXECUTE FUNCTION platform.follow_run_with_retention();""",
    """\
CREATE FUNCTION platform.record_workspace_retention() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO platform.workspace_retention_audit_log
        (owner_id, workspace_retention_rule_id, status, retention_days, apply_on)
    VALUES (NEW.owner_id, NEW.id_, NEW.status, NEW.retention_days, NEW.apply_on);
    RETURN NULL;
END
$$;""",
    """\
CREATE TRIGGER record_workspace_retention
    AFTER INSERT OR UPDATE OF status, retention_days, apply_on ON platform.workspace_retention_rule
    FOR EACH ROW EXECUTE FUNCTION platform.record_workspace_retention();""",
]


def _forget_user() -> list[str]:
    """Return the statements by which what no foreign key ties to a user goes with the user all the same.

    A trigger's name decides when it fires: this one after those of the foreign keys (``RI_…``), so that
    whoever still writes history of the user's rows was waited for.
    """
    tied = {table.name for table in Base.metadata.tables.values() if table.foreign_keys}
    deletes = "\n".join(
        f"    DELETE FROM platform.{table} WHERE {column} = OLD.id_;"
        for table, column in tenant_columns().items()
        if table not in {*tied, "user_", "audit_log"}  # The audit log outlives the user.
    )
    return [
        f"""\
CREATE FUNCTION platform.forget_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
{deletes}
    RETURN NULL;
END
$$;""",
        """\
CREATE TRIGGER forget_user AFTER DELETE ON platform.user_
    FOR EACH ROW EXECUTE FUNCTION platform.forget_user();""",
    ]


_LAST_USE = [
    """\
CREATE FUNCTION platform.add_user_token_last_use() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO platform.user_token_last_use (user_id, token_id) VALUES (NEW.user_id, NEW.id_);
    RETURN NULL;
END
$$;""",
    """\
CREATE TRIGGER add_user_token_last_use AFTER INSERT ON platform.user_token
    FOR EACH ROW EXECUTE FUNCTION platform.add_user_token_last_use();""",
]

_KEY_ID = f"substring({{}}.token FROM 2 FOR {KEY_ID_BYTES})"

# Whoever assigns a value hands over its digests under the ring's other keys, too; a rotation does not, and
# changes the key. It must fire before refuse_known_user_token_token, which takes those digests away: triggers
# fire in the order of their names.
_KEEP_VALUE = [
    """\
CREATE FUNCTION platform.keep_user_token_value() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'unique_violation',
        MESSAGE = 'a token that was granted keeps its value',
        SCHEMA = 'platform', TABLE = 'user_token',
        CONSTRAINT = CASE
            WHEN OLD.type_ = 'access' AND OLD.status = 'active' THEN 'uq_user_token_active_access'
            ELSE 'user_token_keeps_value'
        END;
END
$$;""",
    f"""\
CREATE TRIGGER keep_user_token_value
    BEFORE UPDATE OF token, token_digest, other_token_digests ON platform.user_token
    FOR EACH ROW WHEN (
        OLD.status <> 'requested' AND OLD.token_digest <> NEW.token_digest
        AND (NEW.other_token_digests IS NOT NULL
            OR {_KEY_ID.format("OLD")} = {_KEY_ID.format("NEW")}))
    EXECUTE FUNCTION platform.keep_user_token_value();""",
]

# A function of PL/pgSQL, because it keeps its plan: planning takes longer than looking up. One value of JSON,
# because a row of columns costs the driver and SQLAlchemy as much again. A transaction that cannot write, as
# on a replica, says so here: trying to note the use would abort it.
_LOOK_UP = """\
CREATE FUNCTION platform.look_up_token(digests bytea[]) RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    digest bytea;
    found_token json;
    the_token json;
BEGIN
    FOREACH digest IN ARRAY digests LOOP
        SELECT json_build_object(
            'token_id', token.id_, 'user_id', token.user_id, 'type', token.type_, 'status', token.status,
            'name', token.name, 'scopes', token.scopes, 'expires_at', extract(epoch FROM token.expires_at),
            'expired', coalesce(token.expires_at <= statement_timestamp(), false),
            'note_use', current_setting('transaction_read_only') = 'off' AND coalesce((
                SELECT last_use.last_used_at < statement_timestamp() - interval '1 minute'
                FROM platform.user_token_last_use AS last_use
                WHERE last_use.user_id = token.user_id AND last_use.token_id = token.id_), true))
        INTO found_token FROM platform.user_token AS token WHERE token.token_digest = digest;
        IF FOUND AND the_token IS NOT NULL THEN
            RETURN NULL; -- Two tokens with one value could only come from writing past the models.
        END IF;
        the_token := coalesce(found_token, the_token);
    END LOOP;
    RETURN the_token;
END
$$;"""


def _refuse_known_values(table: str, value: str) -> list[str]:
    """Return the statements by which a value that is stored already is refused under every key.

    The function runs as its owner, who sees every tenant's rows. Nobody else may call it or make a trigger of
    it, and it tells no more than the unique index does.

    The locks make writers of the same value wait for each other: what one of them has not committed yet, the
    other's query would not see.
    """
    return [
        f"""\
CREATE FUNCTION platform.refuse_known_{table}_{value}() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    digests bytea[] := NEW.other_{value}_digests || NEW.{value}_digest;
BEGIN
    PERFORM pg_advisory_xact_lock(lock_key) FROM (
        SELECT hashtextextended(encode(digest, 'hex'), 0) AS lock_key
        FROM unnest(digests) AS digest ORDER BY 1
    ) AS lock_keys;
    IF EXISTS (SELECT FROM platform.{table} WHERE {value}_digest = ANY (digests) AND id_ <> NEW.id_) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'unique_violation',
            MESSAGE = 'this value is stored already',
            SCHEMA = 'platform', TABLE = '{table}', CONSTRAINT = 'uq_{table}_{value}_digest';
    END IF;
    NEW.other_{value}_digests := NULL;
    RETURN NEW;
END
$$;""",
        f"REVOKE EXECUTE ON FUNCTION platform.refuse_known_{table}_{value}() FROM PUBLIC;",
        f"""\
CREATE TRIGGER refuse_known_{table}_{value}
    BEFORE INSERT OR UPDATE OF other_{value}_digests ON platform.{table}
    FOR EACH ROW WHEN (NEW.other_{value}_digests IS NOT NULL)
    EXECUTE FUNCTION platform.refuse_known_{table}_{value}();""",
    ]


def before_tables() -> list[str]:
    """Return the statements that create what tables depend on."""
    return [_JOB_CACHE_DIGEST]


def after_tables() -> list[str]:
    """Return the statements that create what depends on tables."""
    tables = sorted(Base.metadata.tables.values(), key=lambda table: table.name)
    touched = [table.name for table in tables if "updated" in table.columns]
    return [
        *(
            f"ALTER TABLE platform.{table.name} SET ({table.info[STORAGE]});"
            for table in tables
            if STORAGE in table.info
        ),
        _TOUCH,
        *(
            f"""\
CREATE TRIGGER touch_{table} BEFORE UPDATE ON platform.{table}
    FOR EACH ROW EXECUTE FUNCTION platform.touch();"""
            for table in touched
        ),
        *RUN_NUMBER_FUNCTIONS,
        *guard_statements(),
        *lease_statements(),
        *_RETENTION,
        *_forget_user(),
        *_LAST_USE,
        *_KEEP_VALUE,
        _LOOK_UP,
        *_refuse_known_values("user_token", "token"),
        *_refuse_known_values("interactive_session", "secret"),
        *append_only_statements(),
        *recording_statements(),
        *policy_statements(),
    ]
