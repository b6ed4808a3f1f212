-- A job may be cached before its result is known. A result that is completed takes the place of the one that is there
-- for the same parameters and workspace. The second of two that complete the same at once waits for the first one's
-- commit, and then finds it.
CREATE FUNCTION platform.replace_cached_result() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    completed bytea := platform.job_cache_digest(NEW.parameters, NEW.workspace_hash);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(format('cached result %s %s', NEW.owner_id, completed), 0));
    DELETE FROM platform.job_cache WHERE owner_id = NEW.owner_id AND digest = completed;
    RETURN NEW;
END
$$;

CREATE TRIGGER replace_cached_result BEFORE UPDATE ON platform.job_cache
    FOR EACH ROW WHEN (OLD.digest IS NULL AND NEW.parameters IS NOT NULL AND NEW.workspace_hash IS NOT NULL)
    EXECUTE FUNCTION platform.replace_cached_result();
