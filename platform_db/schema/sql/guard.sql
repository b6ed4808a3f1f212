-- The guard: what every status change meets, by Python, bulk SQL or psql.
--
-- Settings of the transaction that it reads:
--   platform.actor, platform.reason    who and why, for status_change.
--   platform.statement_reason          why, for one statement: its statement_timestamp(), a space and the reason.
--                                      It wins over platform.reason and says nothing to a later statement.
--   platform.this_reason               the same where another node runs the statement, whose clock is another: who
--                                      sets it takes it back.
--   platform.guard                     'override', a space and transaction_mark() let through what would be
--                                      refused, where there is a platform.reason. So an override outlives no
--                                      transaction, and none goes without a word.

CREATE FUNCTION platform.guard_is_overridden() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.guard', true), '') <> '' -- Nearly every change ends here.
       AND current_setting('platform.guard', true)
           = 'override ' || coalesce(platform.transaction_mark(), '')
       AND coalesce(current_setting('platform.reason', true), '') <> '';

-- Whether the guard would let through what the states do not allow. Asked only about that: the legal path pays nothing.
CREATE FUNCTION platform.guard_permits(the_entity text, old_status text, new_status text) RETURNS boolean
    LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN platform.guard_is_overridden() OR EXISTS (
        SELECT FROM platform.extra_transition
        WHERE entity = the_entity AND from_status = old_status AND to_status = new_status);
END
$$;

-- Before a row is written: refuses what may not follow, keeps the times of its status, and counts its revision. It
-- stamps the row, too: a trigger of its own for that costs a change of a status 4 %.
-- Arguments: the entity, the times that it keeps (run, job or none), and each legal transition as from>to.
-- Times come from clock_timestamp(): a row's changes happen one after another under its lock, in transactions
-- that may have begun in another order. Its functions are named with their schema, since every change of a status
-- would pay for a search_path of its own.
CREATE FUNCTION platform.guard_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.revision := 0;
    ELSIF NEW.status = OLD.status THEN
        NEW.revision := OLD.revision;
        RETURN NEW;
    ELSIF platform.is_import() THEN
        NEW.revision := OLD.revision; -- It counts the history, which an import leaves as it is.
        RETURN NEW;
    ELSE
        IF OLD.status::text || '>' || NEW.status::text <> ALL (TG_ARGV) THEN
            IF NOT platform.guard_permits(TG_ARGV[0], OLD.status::text, NEW.status::text) THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'PD001',
                    MESSAGE = format('%s %s cannot go from %s to %s', TG_ARGV[0], OLD.id_, OLD.status, NEW.status),
                    DETAIL = format('%s %s %s', OLD.id_, OLD.status, NEW.status),
                    SCHEMA = 'platform', TABLE = TG_ARGV[0], COLUMN = 'status';
            END IF;
            -- What lives again has the times of its new life alone. The states do that with a run that goes on
            -- running, and let nothing else live again.
            IF TG_ARGV[1] = 'run' THEN
                IF OLD.status IN ('finished', 'failed', 'stopped', 'deleted')
                    AND NEW.status IN ('created', 'queued', 'pending')
                THEN
                    NEW.run_started_at := nullif(NEW.run_started_at, OLD.run_started_at);
                    NEW.run_finished_at := NULL;
                    NEW.run_stopped_at := NULL;
                END IF;
            ELSIF TG_ARGV[1] = 'job' THEN
                IF OLD.status IN ('finished', 'failed', 'stopped')
                    AND NEW.status IN ('created', 'queued', 'running')
                THEN
                    NEW.started_at := nullif(NEW.started_at, OLD.started_at);
                    NEW.finished_at := NULL;
                END IF;
            END IF;
        END IF;
        NEW.revision := OLD.revision + 1;
        NEW.created := OLD.created;
        NEW.updated := pg_catalog.clock_timestamp();
    END IF;
    IF TG_ARGV[1] = 'run' THEN
        IF NEW.status = 'running' THEN
            IF TG_OP = 'INSERT' THEN
                NEW.run_started_at := coalesce(NEW.run_started_at, pg_catalog.clock_timestamp());
            ELSIF NEW.run_started_at IS NOT DISTINCT FROM OLD.run_started_at THEN
                NEW.run_started_at := pg_catalog.clock_timestamp();
            END IF;
            NEW.run_finished_at := NULL;
            NEW.run_stopped_at := NULL;
        ELSIF NEW.status IN ('finished', 'failed') THEN
            NEW.run_finished_at := coalesce(NEW.run_finished_at, pg_catalog.clock_timestamp());
        ELSIF NEW.status = 'stopped' THEN
            NEW.run_stopped_at := coalesce(NEW.run_stopped_at, pg_catalog.clock_timestamp());
        END IF;
    ELSIF TG_ARGV[1] = 'job' THEN
        IF NEW.status = 'running' THEN
            NEW.started_at := coalesce(NEW.started_at, pg_catalog.clock_timestamp());
        ELSIF NEW.status IN ('finished', 'failed', 'stopped') THEN
            NEW.finished_at := coalesce(NEW.finished_at, pg_catalog.clock_timestamp());
        END IF;
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION platform.keep_identity() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'PD003',
        MESSAGE = format('%s %s keeps its id and its owner', TG_ARGV[0], OLD.id_),
        SCHEMA = 'platform', TABLE = TG_ARGV[0];
END
$$;
