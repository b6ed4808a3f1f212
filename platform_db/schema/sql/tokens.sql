-- Tokens: looking one up, noting its use, and keeping its value.

-- The row of a token's last use is there from the start: from then on it is only updated, which need not wait.
CREATE FUNCTION platform.add_user_token_last_use() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.user_token_last_use (owner_id, token_id) VALUES (NEW.owner_id, NEW.id_);
    RETURN NULL;
END
$$;

CREATE TRIGGER add_user_token_last_use AFTER INSERT ON platform.user_token
    FOR EACH ROW EXECUTE FUNCTION platform.add_user_token_last_use();

-- A value that was granted has been handed out: another in its place would leave it valid nowhere and revoked
-- nowhere. Encrypting it under another key changes the key's id, and hands over no other digests.
CREATE FUNCTION platform.keep_user_token_value() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'unique_violation',
        MESSAGE = 'a token that was granted keeps its value',
        SCHEMA = 'platform', TABLE = 'user_token',
        CONSTRAINT = CASE
            WHEN OLD.type_ = 'access' AND OLD.status = 'active' THEN 'uq_user_token_active_access'
            ELSE 'user_token_keeps_value'
        END;
END
$$;

CREATE TRIGGER keep_user_token_value
    BEFORE UPDATE OF token, token_digest, other_token_digests ON platform.user_token
    FOR EACH ROW WHEN (
        OLD.status <> 'requested' AND OLD.token_digest IS DISTINCT FROM NEW.token_digest
        AND (NEW.other_token_digests IS NOT NULL
            OR substring(OLD.token FROM 2 FOR 4) IS NOT DISTINCT FROM substring(NEW.token FROM 2 FOR 4)
            OR OLD.token IS NULL OR NEW.token IS NULL))
    EXECUTE FUNCTION platform.keep_user_token_value();

-- A function of PL/pgSQL, because it keeps its plan: planning takes longer than looking up. One value of JSON,
-- because a row of columns costs the driver and SQLAlchemy as much again. A transaction that cannot write, as on
-- a replica, says so here: trying to note the use would abort it.
CREATE FUNCTION platform.look_up_token(digests bytea[]) RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    digest bytea;
    found_token json;
    the_token json;
BEGIN
    FOREACH digest IN ARRAY digests LOOP
        SELECT json_build_object(
            'token_id', token.id_, 'owner_id', token.owner_id, 'type', token.type_, 'status', token.status,
            'name', token.name, 'scopes', token.scopes, 'expires_at', extract(epoch FROM token.expires_at),
            'expired', coalesce(token.expires_at <= statement_timestamp(), false),
            'note_use', current_setting('transaction_read_only') = 'off' AND coalesce((
                SELECT last_use.last_used_at < statement_timestamp() - interval '1 minute'
                FROM platform.user_token_last_use AS last_use
                WHERE last_use.owner_id = token.owner_id AND last_use.token_id = token.id_), true))
        INTO found_token FROM platform.user_token AS token WHERE token.token_digest = digest;
        IF FOUND AND the_token IS NOT NULL THEN
            RETURN NULL; -- Two tokens with one value could only come from writing past the models.
        END IF;
        the_token := coalesce(found_token, the_token);
    END LOOP;
    RETURN the_token;
END
$$;
