-- History: one row for each status change, and none for a row that is gone. Arguments of both functions: the entity, and
-- of the first one the legal transitions as from>to, with spaces around each. They are one text, since making an array
-- of them costs each change 3 %. Both run as their owner, so that a tenant can write no history and delete none.

CREATE FUNCTION platform.record_status() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    change_reason text := coalesce(
        nullif(current_setting('platform.this_reason', true), ''), nullif(current_setting('platform.reason', true), ''));
    statement_reason text := nullif(current_setting('platform.statement_reason', true), '');
    this_statement text;
    -- Up here, since what stands in the INSERT is prepared again for each row.
    change_actor text := nullif(current_setting('platform.actor', true), '');
    is_overridden boolean := platform.guard_is_overridden();
    is_extra boolean;
BEGIN
    IF NEW.revision = OLD.revision THEN -- An import's change.
        RETURN NULL;
    END IF;
    IF statement_reason IS NOT NULL THEN
        this_statement := statement_timestamp()::text || ' ';
        IF starts_with(statement_reason, this_statement) THEN
            change_reason := substr(statement_reason, length(this_statement) + 1);
        END IF;
    END IF;
    -- What neither the states nor an override let through, an extra transition did.
    IF OLD.status <> NEW.status AND NOT is_overridden
        AND position(' ' || OLD.status || '>' || NEW.status || ' ' IN TG_ARGV[1]) = 0
    THEN
        is_extra := true;
    END IF;
    INSERT INTO platform.status_change
        (owner_id, entity_id, revision, entity, number, from_status, to_status, at, actor, reason, overridden, extra,
         transaction_id)
    VALUES (
        NEW.owner_id, NEW.id_, NEW.revision, TG_ARGV[0], platform.next_number('platform.history_number'),
        OLD.status, NEW.status, clock_timestamp(), change_actor, change_reason, is_overridden, is_extra,
        pg_current_xact_id()::text::bigint
    );
    RETURN NULL;
END
$$;

-- What speaks of any row by its id has no foreign key to it. All rows of a statement at once: row by row takes two to
-- three times as long. Owner by owner: a statement about one owner's rows stays on one node where tables are
-- distributed, which a join with the transition table does not.
CREATE FUNCTION platform.forget() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner uuid;
    ids uuid[];
BEGIN
    FOR owner, ids IN SELECT owner_id, array_agg(id_) FROM deleted GROUP BY owner_id LOOP
        DELETE FROM platform.lease
        WHERE owner_id = owner AND entity_id = ANY (ids) AND entity = TG_ARGV[0];
        DELETE FROM platform.note
        WHERE owner_id = owner AND entity_id = ANY (ids) AND entity = TG_ARGV[0];
        DELETE FROM platform.status_change
        WHERE owner_id = owner AND entity_id = ANY (ids) AND entity = TG_ARGV[0];
    END LOOP;
    RETURN NULL;
END
$$;

-- A trigger's name decides when it fires: this one after those of the foreign keys (RI_…), which wait for every
-- transaction that still writes history of the user's rows.
CREATE FUNCTION platform.forget_user() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM platform.lease WHERE owner_id = OLD.id_;
    DELETE FROM platform.note WHERE owner_id = OLD.id_;
    DELETE FROM platform.status_change WHERE owner_id = OLD.id_;
    RETURN NULL;
END
$$;

CREATE TRIGGER forget_user AFTER DELETE ON platform.user_
    FOR EACH ROW WHEN (platform.is_coordinator()) EXECUTE FUNCTION platform.forget_user();
