-- A row that is started again loses the lease of its life before. At the start and not at the end: ends are
-- many, and each would wait for a worker that beats at this moment. Argument: the entity.
CREATE FUNCTION platform.drop_former_lease() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM platform.lease WHERE owner_id = NEW.owner_id AND entity_id = NEW.id_ AND entity = TG_ARGV[0];
    RETURN NULL;
END
$$;
