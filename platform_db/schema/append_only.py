"""Triggers that keep the audit log and its seals append-only.

They protect from accidents and bugs, whoever connects. A superuser can switch them off; that is what seals
are for. Rows may be deleted once a seal says that they are no longer kept: retention makes that seal first,
and with a signing key nobody else can make one that verifies.
"""

from __future__ import annotations

APPEND_ONLY = "PD002"

_REFUSE_CHANGE = f"""\
CREATE FUNCTION platform.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = '{APPEND_ONLY}',
        MESSAGE = format('%s refused: %s is append-only', TG_OP, TG_TABLE_NAME),
        SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
END
$$;"""

# A row's number is drawn after its transaction has an id: the fence of the seals rests on this order, and a
# BEFORE STATEMENT trigger runs before the first row is computed.
_NUMBER_LATE = """\
CREATE FUNCTION platform.assign_transaction_id() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_current_xact_id();
    RETURN NULL;
END
$$;"""

_KEEP_ROWS = f"""\
CREATE FUNCTION platform.keep_audit_rows() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kept_from bigint := coalesce(
        (SELECT first_kept_seal FROM platform.audit_seal ORDER BY number DESC LIMIT 1), 1);
    removed bigint;
    removable bigint;
BEGIN
    IF TG_TABLE_NAME = 'audit_log' THEN
        SELECT max(number) INTO removed FROM deleted;
        SELECT last_row INTO removable FROM platform.audit_seal WHERE number = kept_from - 1;
    ELSE
        SELECT max(seal_number) INTO removed FROM deleted;
        removable := kept_from - 1;
    END IF;
    IF removed > coalesce(removable, 0) THEN
        RAISE EXCEPTION USING
            ERRCODE = '{APPEND_ONLY}',
            MESSAGE = format('DELETE refused: %s is append-only', TG_TABLE_NAME),
            HINT = 'What is old is removed by: platform-db audit prune.',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END
$$;"""


def append_only_statements() -> list[str]:
    """Return the statements that create the functions and triggers."""
    return [
        _REFUSE_CHANGE,
        _NUMBER_LATE,
        _KEEP_ROWS,
        """\
CREATE TRIGGER assign_transaction_id BEFORE INSERT ON platform.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION platform.assign_transaction_id();""",
        *(
            f"""\
CREATE TRIGGER refuse_change BEFORE {events} ON platform.{table}
    FOR EACH STATEMENT EXECUTE FUNCTION platform.refuse_change();"""
            for table, events in (
                ("audit_log", "UPDATE OR TRUNCATE"),
                ("audit_seal", "UPDATE OR DELETE OR TRUNCATE"),
                ("audit_seal_digests", "UPDATE OR TRUNCATE"),
            )
        ),
        *(
            f"""\
CREATE TRIGGER keep_audit_rows AFTER DELETE ON platform.{table}
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.keep_audit_rows();"""
            for table in ("audit_log", "audit_seal_digests")
        ),
    ]
