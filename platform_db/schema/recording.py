"""Triggers that write audit rows, so that Python, bulk SQL and psql all leave the same ones.

One row for each user that is created or deleted, each limit that changes, each run that is shared or no
longer shared, and each override of the guard. Who and from where comes from the transaction, as for every
audit row. Its setting ``platform.details`` is what else there is to say of a user.
"""

from __future__ import annotations

_RECORD_OVERRIDE = """\
CREATE FUNCTION platform.record_guard_override() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, user_id, action, details)
    VALUES (
        gen_random_uuid(), NEW.owner_id, 'override_guard',
        jsonb_build_object(
            'entity', NEW.entity, 'entity_id', NEW.entity_id, 'revision', NEW.revision,
            'from_status', NEW.from_status, 'to_status', NEW.to_status, 'reason', NEW.reason
        )
    );
    RETURN NULL;
END
$$;"""

_RECORD_USER = """\
CREATE FUNCTION platform.record_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, user_id, action, details)
    VALUES (
        gen_random_uuid(), coalesce(NEW.id_, OLD.id_), TG_ARGV[0],
        nullif(current_setting('platform.details', true), '')::jsonb
    );
    RETURN NULL;
END
$$;"""

_RECORD_QUOTA_LIMIT = """\
CREATE FUNCTION platform.record_quota_limit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, user_id, action, details)
    VALUES (
        gen_random_uuid(), NEW.user_id, 'set_quota_limit',
        jsonb_build_object(
            'resource_id', NEW.resource_id, 'before', OLD.quota_limit, 'limit', NEW.quota_limit
        )
    );
    RETURN NULL;
END
$$;"""

# A time in JSON is written in the session's time zone; in an audit row it is UTC.
_RECORD_SHARING = """\
CREATE FUNCTION platform.record_sharing() RETURNS trigger LANGUAGE plpgsql
    SET timezone = 'UTC' AS $$
DECLARE
    share platform.user_workflow := coalesce(NEW, OLD);
    details jsonb := jsonb_build_object('workflow_id', share.workflow_id, 'user_id', share.user_id);
BEGIN
    IF TG_OP <> 'DELETE' THEN
        details := details || jsonb_build_object('valid_until', share.valid_until);
    END IF;
    INSERT INTO platform.audit_log (id_, user_id, action, details)
    VALUES (gen_random_uuid(), share.owner_id, TG_ARGV[0], details);
    RETURN NULL;
END
$$;"""


def recording_statements() -> list[str]:
    """Return the statements that create the functions and triggers.

    A share that goes with its run or its user, by a foreign key and so inside a trigger, is not recorded.
    """
    return [
        _RECORD_OVERRIDE,
        _RECORD_USER,
        _RECORD_QUOTA_LIMIT,
        _RECORD_SHARING,
        """\
CREATE TRIGGER record_guard_override AFTER INSERT ON platform.status_change
    FOR EACH ROW WHEN (NEW.overridden) EXECUTE FUNCTION platform.record_guard_override();""",
        """\
CREATE TRIGGER record_creation AFTER INSERT ON platform.user_
    FOR EACH ROW EXECUTE FUNCTION platform.record_user('create_user');""",
        """\
CREATE TRIGGER record_deletion AFTER DELETE ON platform.user_
    FOR EACH ROW EXECUTE FUNCTION platform.record_user('delete_user');""",
        """\
CREATE TRIGGER record_quota_limit AFTER UPDATE OF quota_limit ON platform.user_resource
    FOR EACH ROW WHEN (OLD.quota_limit IS DISTINCT FROM NEW.quota_limit)
    EXECUTE FUNCTION platform.record_quota_limit();""",
        """\
CREATE TRIGGER record_share AFTER INSERT OR UPDATE ON platform.user_workflow
    FOR EACH ROW EXECUTE FUNCTION platform.record_sharing('share_workflow');""",
        """\
CREATE TRIGGER record_unshare AFTER DELETE ON platform.user_workflow
    FOR EACH ROW WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION platform.record_sharing('unshare_workflow');""",
    ]
