-- A row that is started again loses the lease of its life before. At the start and not at the end: ends are
-- many, and each would wait for a worker that beats at this moment. Argument: the entity. As the guard, it spares
-- each change of a status a search_path of its own.
CREATE FUNCTION platform.drop_former_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM platform.lease WHERE owner_id = NEW.owner_id AND entity_id = NEW.id_ AND entity = TG_ARGV[0];
    RETURN NULL;
END
$$;
