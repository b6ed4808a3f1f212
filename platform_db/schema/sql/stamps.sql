-- Times come from the database's clock, whatever a client sends: lists are ordered by them.

-- An import from another system keeps its times, and its rows leave no audit rows: SET LOCAL platform.import = 'on'.
-- The switch works for the tables' owner alone, since nobody else may truncate them.
CREATE FUNCTION platform.is_import() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.import', true), '') = 'on'
       AND has_table_privilege('platform.user_', 'TRUNCATE');

-- Keeps created and updated. clock_timestamp() and not now(): rows of one transaction have an order, too.
CREATE FUNCTION platform.stamp_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.created := OLD.created;
        NEW.updated := clock_timestamp();
    ELSIF NOT platform.is_import() THEN
        NEW.created := clock_timestamp();
        NEW.updated := NEW.created;
    END IF;
    RETURN NEW;
END
$$;

-- Numbers an entry of a history. A reader goes by the numbers, which no clock turns back, and finds what commits
-- late by its transaction.
CREATE FUNCTION platform.stamp_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.number := nextval('platform.history_number');
    NEW.transaction_id := pg_current_xact_id()::text::bigint;
    IF NOT platform.is_import() THEN
        NEW.at := clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;

-- The same for a piece of a run's or a job's log.
CREATE FUNCTION platform.stamp_log_chunk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.number := nextval('platform.log_number');
    NEW.transaction_id := pg_current_xact_id()::text::bigint;
    IF NOT platform.is_import() THEN
        NEW.at := clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION platform.stamp_service_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.number := nextval('platform.log_number');
    IF NOT platform.is_import() THEN
        NEW.at := clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER stamp_note BEFORE INSERT ON platform.note
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_note();

CREATE TRIGGER stamp_log_chunk BEFORE INSERT ON platform.log_chunk
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_log_chunk();

CREATE TRIGGER stamp_service_log BEFORE INSERT ON platform.service_log
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_service_log();
