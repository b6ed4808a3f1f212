ALTER TABLE platform.user_token ADD COLUMN other_token_digests BYTEA[];

ALTER TABLE platform.interactive_session ADD COLUMN other_secret_digests BYTEA[];

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX ix_user_token_key_id ON platform.user_token (substring(token FROM 2 FOR 4));

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX ix_interactive_session_key_id ON platform.interactive_session (substring(secret FROM 2 FOR 4));

-- squawk-ignore ban-drop-not-null
ALTER TABLE platform.user_token_last_use ALTER COLUMN last_used_at DROP NOT NULL;

CREATE FUNCTION platform.add_user_token_last_use() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO platform.user_token_last_use (user_id, token_id) VALUES (NEW.user_id, NEW.id_);
    RETURN NULL;
END
$$;

CREATE TRIGGER add_user_token_last_use AFTER INSERT ON platform.user_token
    FOR EACH ROW EXECUTE FUNCTION platform.add_user_token_last_use();

INSERT INTO platform.user_token_last_use (user_id, token_id)
SELECT user_id, id_ FROM platform.user_token
ON CONFLICT DO NOTHING;

CREATE FUNCTION platform.keep_user_token_value() RETURNS trigger LANGUAGE plpgsql AS $$
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
        OLD.status <> 'requested' AND OLD.token_digest <> NEW.token_digest
        AND (NEW.other_token_digests IS NOT NULL
            OR substring(OLD.token FROM 2 FOR 4) = substring(NEW.token FROM 2 FOR 4)))
    EXECUTE FUNCTION platform.keep_user_token_value();

CREATE FUNCTION platform.look_up_token(digests bytea[]) RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    digest bytea;
    found_token json;
    the_token json;
BEGIN
    FOREACH digest IN ARRAY digests LOOP
        SELECT json_build_object(
            'token_id', token.id_, 'user_id', token.user_id, 'type', token.type_, 'status', token.status,
            'name', token.name, 'scopes', token.scopes, 'expires_at', extract(epoch FROM token.expires_at),
            'expired', coalesce(token.expires_at <= statement_timestamp(), false),
            'note_use', current_setting('transaction_read_only') = 'off' AND coalesce((
                SELECT last_use.last_used_at < statement_timestamp() - interval '1 minute'
                FROM platform.user_token_last_use AS last_use
                WHERE last_use.user_id = token.user_id AND last_use.token_id = token.id_), true))
        INTO found_token FROM platform.user_token AS token WHERE token.token_digest = digest;
        IF FOUND AND the_token IS NOT NULL THEN
            RETURN NULL; -- Two tokens with one value could only come from writing past the models.
        END IF;
        the_token := coalesce(found_token, the_token);
    END LOOP;
    RETURN the_token;
END
$$;

CREATE FUNCTION platform.refuse_known_user_token_token() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    digests bytea[] := NEW.other_token_digests || NEW.token_digest;
BEGIN
    PERFORM pg_advisory_xact_lock(lock_key) FROM (
        SELECT hashtextextended(encode(digest, 'hex'), 0) AS lock_key
        FROM unnest(digests) AS digest ORDER BY 1
    ) AS lock_keys;
    IF EXISTS (SELECT FROM platform.user_token WHERE token_digest = ANY (digests) AND id_ <> NEW.id_) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'unique_violation',
            MESSAGE = 'this value is stored already',
            SCHEMA = 'platform', TABLE = 'user_token', CONSTRAINT = 'uq_user_token_token_digest';
    END IF;
    NEW.other_token_digests := NULL;
    RETURN NEW;
END
$$;

REVOKE EXECUTE ON FUNCTION platform.refuse_known_user_token_token() FROM PUBLIC;

CREATE TRIGGER refuse_known_user_token_token
    BEFORE INSERT OR UPDATE OF other_token_digests ON platform.user_token
    FOR EACH ROW WHEN (NEW.other_token_digests IS NOT NULL)
    EXECUTE FUNCTION platform.refuse_known_user_token_token();

CREATE FUNCTION platform.refuse_known_interactive_session_secret() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    digests bytea[] := NEW.other_secret_digests || NEW.secret_digest;
BEGIN
    PERFORM pg_advisory_xact_lock(lock_key) FROM (
        SELECT hashtextextended(encode(digest, 'hex'), 0) AS lock_key
        FROM unnest(digests) AS digest ORDER BY 1
    ) AS lock_keys;
    IF EXISTS (SELECT FROM platform.interactive_session WHERE secret_digest = ANY (digests) AND id_ <> NEW.id_) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'unique_violation',
            MESSAGE = 'this value is stored already',
            SCHEMA = 'platform', TABLE = 'interactive_session', CONSTRAINT = 'uq_interactive_session_secret_digest';
    END IF;
    NEW.other_secret_digests := NULL;
    RETURN NEW;
END
$$;

REVOKE EXECUTE ON FUNCTION platform.refuse_known_interactive_session_secret() FROM PUBLIC;

CREATE TRIGGER refuse_known_interactive_session_secret
    BEFORE INSERT OR UPDATE OF other_secret_digests ON platform.interactive_session
    FOR EACH ROW WHEN (NEW.other_secret_digests IS NOT NULL)
    EXECUTE FUNCTION platform.refuse_known_interactive_session_secret();
