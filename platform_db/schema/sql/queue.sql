-- An owner's turn in the queue comes with the user, so that a claim never waits for another to write it.
CREATE FUNCTION platform.add_owner_limit() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.owner_limit (owner_id) VALUES (NEW.id_);
    RETURN NULL;
END
$$;

CREATE TRIGGER add_owner_limit AFTER INSERT ON platform.user_
    FOR EACH ROW EXECUTE FUNCTION platform.add_owner_limit();
