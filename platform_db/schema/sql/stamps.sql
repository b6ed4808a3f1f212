-- Times come from the database's clock, whatever a client sends: lists are ordered by them.

-- An import from another system only moves rows: SET LOCAL platform.import = 'on'. They keep the times and statuses
-- that they bring, and leave no history, no events, no audit rows; no rule follows from them.
-- Anyone can set it, but it works for a login with the rights of the tables' owner alone, outside any tenant's scope:
-- no other role may truncate them. The table is named by text, so that the function needs none to be there. The current user alone says nothing, since functions that run as their owner ask.
CREATE FUNCTION platform.is_import() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.import', true), '') = 'on'
       AND has_table_privilege(session_user, 'platform.user_', 'TRUNCATE')
       AND has_table_privilege('platform.user_', 'TRUNCATE');

-- Keeps created and updated. clock_timestamp() and not now(): rows of one transaction have an order, too. Functions
-- are named with their schema, as whatever the writer's search_path finds first would have a say in the times.
CREATE FUNCTION platform.stamp_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF platform.is_import() THEN
        NEW.created := coalesce(NEW.created, pg_catalog.clock_timestamp());
        NEW.updated := coalesce(NEW.updated, NEW.created);
    ELSIF TG_OP = 'UPDATE' THEN
        NEW.created := OLD.created;
        NEW.updated := pg_catalog.clock_timestamp();
    ELSE
        NEW.created := pg_catalog.clock_timestamp();
        NEW.updated := NEW.created;
    END IF;
    RETURN NEW;
END
$$;

-- Numbers an entry of a history or a log. A reader goes by the numbers, which no clock turns back, and finds what
-- commits late by its transaction. Argument: the sequence.
CREATE FUNCTION platform.stamp_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.number := platform.next_number(TG_ARGV[0]);
    NEW.transaction_id := pg_catalog.pg_current_xact_id()::text::bigint;
    IF NEW.at IS NULL OR NOT platform.is_import() THEN
        NEW.at := pg_catalog.clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER stamp_entry BEFORE INSERT ON platform.note
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_entry('platform.history_number');

CREATE TRIGGER stamp_entry BEFORE INSERT ON platform.log_chunk
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_entry('platform.log_number');

CREATE TRIGGER stamp_entry BEFORE INSERT ON platform.service_log
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_entry('platform.log_number');
