ALTER TABLE platform.user_token ADD COLUMN other_token_digests BYTEA[];

ALTER TABLE platform.interactive_session ADD COLUMN other_secret_digests BYTEA[];

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

CREATE FUNCTION platform.refuse_known_user_token_token() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER refuse_known_user_token_token
    BEFORE INSERT OR UPDATE OF other_token_digests ON platform.user_token
    FOR EACH ROW WHEN (NEW.other_token_digests IS NOT NULL)
    EXECUTE FUNCTION platform.refuse_known_user_token_token();

CREATE FUNCTION platform.refuse_known_interactive_session_secret() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER refuse_known_interactive_session_secret
    BEFORE INSERT OR UPDATE OF other_secret_digests ON platform.interactive_session
    FOR EACH ROW WHEN (NEW.other_secret_digests IS NOT NULL)
    EXECUTE FUNCTION platform.refuse_known_interactive_session_secret();
