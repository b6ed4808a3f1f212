-- Run numbers: 1, 2, 3 … for each owner and name; a restart of run 2 is 2.1, 2.2 …
--
-- The counters are rows of run_counter: run_number_major 0 counts the runs of a name, any other the restarts of
-- that run. A trigger takes a new run's number inside its INSERT, so concurrent creators wait for each other for
-- the length of a transaction, and never collide.

-- Creators wait per owner and not per counter: transactions that create runs of two names in opposite orders would
-- deadlock on the counters, and with a dozen of them, retries get nowhere (seen: less than one transaction a second).
-- Writers of a user's tokens take the same lock. It is an advisory one, which needs no write to the user's row.
CREATE FUNCTION platform.lock_owner(owner uuid) RETURNS void LANGUAGE sql
    RETURN pg_advisory_xact_lock(hashtextextended('platform owner ' || owner, 0));

CREATE FUNCTION platform.take_run_number(
    owner uuid, run_name text, is_restart boolean, INOUT major integer, OUT minor integer
) LANGUAGE plpgsql AS $$
DECLARE
    latest integer;
    taken integer;
BEGIN
    PERFORM platform.lock_owner(owner);
    IF is_restart THEN
        SELECT last INTO latest FROM platform.run_counter
        WHERE owner_id = owner AND name = run_name AND run_number_major = 0;
        IF latest IS NULL OR major > latest THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PD004',
                MESSAGE = format('there is no run %sof %L to restart', major || ' ', run_name),
                SCHEMA = 'platform', TABLE = 'workflow';
        END IF;
        major := coalesce(major, latest);
    END IF;
    INSERT INTO platform.run_counter AS counter (owner_id, name, run_number_major, last)
    VALUES (owner, run_name, CASE WHEN is_restart THEN major ELSE 0 END, 1)
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = counter.last + excluded.last
    RETURNING last INTO taken;
    IF is_restart THEN
        minor := taken;
    ELSE
        major := taken;
        minor := 0;
    END IF;
END
$$;

-- A run that brings its number, or is renamed, moves the counters up to it. They only grow, so looking before
-- locking is safe.
CREATE FUNCTION platform.note_run_number(owner uuid, run_name text, major integer, minor integer)
    RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM platform.run_counter
        WHERE owner_id = owner AND name = run_name AND run_number_major = 0 AND last >= major
    ) AND (minor = 0 OR EXISTS (
        SELECT FROM platform.run_counter
        WHERE owner_id = owner AND name = run_name AND run_number_major = major AND last >= minor
    )) THEN
        RETURN;
    END IF;
    PERFORM platform.lock_owner(owner);
    INSERT INTO platform.run_counter AS counter (owner_id, name, run_number_major, last)
    SELECT owner, run_name, given.major, given.last
    FROM (VALUES (0, major), (major, minor)) AS given (major, last)
    WHERE given.last > 0
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = greatest(counter.last, excluded.last);
END
$$;

-- The usual case, a new run that is no restart, is written out: to call take_run_number for it takes a tenth of the
-- whole INSERT.
CREATE FUNCTION platform.number_run() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' OR NEW.run_number_minor IS NOT NULL
        OR (NOT NEW.restart AND NEW.run_number_major IS NOT NULL)
    THEN
        NEW.run_number_minor := coalesce(NEW.run_number_minor, 0);
        PERFORM platform.note_run_number(
            NEW.owner_id, NEW.name, NEW.run_number_major, NEW.run_number_minor);
    ELSIF NEW.restart THEN
        SELECT major, minor INTO NEW.run_number_major, NEW.run_number_minor
        FROM platform.take_run_number(NEW.owner_id, NEW.name, true, NEW.run_number_major);
    ELSE
        PERFORM platform.lock_owner(NEW.owner_id);
        INSERT INTO platform.run_counter AS counter (owner_id, name, run_number_major, last)
        VALUES (NEW.owner_id, NEW.name, 0, 1)
        ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = counter.last + excluded.last
        RETURNING last INTO NEW.run_number_major;
        NEW.run_number_minor := 0;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER number_new_run BEFORE INSERT ON platform.workflow
    FOR EACH ROW WHEN (NEW.owner_id IS NOT NULL AND NEW.name IS NOT NULL)
    EXECUTE FUNCTION platform.number_run();

CREATE TRIGGER number_renamed_run
    BEFORE UPDATE OF name, run_number_major, run_number_minor ON platform.workflow
    FOR EACH ROW WHEN (
        NEW.name IS NOT NULL AND NEW.run_number_major IS NOT NULL
        AND (OLD.name, OLD.run_number_major, OLD.run_number_minor)
            IS DISTINCT FROM (NEW.name, NEW.run_number_major, NEW.run_number_minor))
    EXECUTE FUNCTION platform.number_run();
