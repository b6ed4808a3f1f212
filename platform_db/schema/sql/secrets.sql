-- One secret, one row: a value is unique under every key.
--
-- While two keys are in the ring, one value has two digests. A writer hands over those under the ring's other keys
-- in a column that stores nothing. All of them are rows of secret_digest, a table that is everywhere when tenants'
-- tables are distributed, so that its primary key is what refuses the value; two writers that claim the same
-- digests do it in the same order. The functions run as their owner, who sees every tenant's digests.

CREATE FUNCTION platform.claim_digests(the_entity text, the_id uuid, digests bytea[]) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    digests := array_remove(digests, NULL);
    IF cardinality(digests) > 16 THEN -- A key ring holds two, or a few; a writer could fill a table that all share.
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation',
            MESSAGE = format('a secret has at most 16 digests, not %s', cardinality(digests)),
            SCHEMA = 'platform', TABLE = 'secret_digest', CONSTRAINT = 'ck_secret_digest_few';
    END IF;
    DELETE FROM platform.secret_digest
    WHERE entity = the_entity AND entity_id = the_id AND NOT digest = ANY (digests);
    INSERT INTO platform.secret_digest (digest, entity, entity_id)
    SELECT claimed.digest, the_entity, the_id FROM unnest(digests) AS claimed (digest)
    WHERE NOT EXISTS (
        SELECT FROM platform.secret_digest AS own
        WHERE own.digest = claimed.digest AND own.entity = the_entity AND own.entity_id = the_id)
    ORDER BY claimed.digest;
END
$$;

CREATE FUNCTION platform.claim_user_token() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM platform.claim_digests('user_token', NEW.id_, NEW.other_token_digests || NEW.token_digest);
    NEW.other_token_digests := NULL;
    RETURN NEW;
END
$$;

-- By its name it fires after keep_user_token_value, which looks at what this one takes away.
CREATE TRIGGER use_digests_once BEFORE INSERT OR UPDATE OF token_digest, other_token_digests ON platform.user_token
    FOR EACH ROW EXECUTE FUNCTION platform.claim_user_token();

CREATE FUNCTION platform.claim_interactive_session() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF platform.is_coordinator() THEN -- Where tables are distributed, the writer claims them there.
        PERFORM platform.claim_digests(
            'interactive_session', NEW.id_, NEW.other_secret_digests || NEW.secret_digest);
    END IF;
    NEW.other_secret_digests := NULL;
    RETURN NEW;
END
$$;

CREATE TRIGGER use_digests_once
    BEFORE INSERT OR UPDATE OF secret_digest, other_secret_digests ON platform.interactive_session
    FOR EACH ROW EXECUTE FUNCTION platform.claim_interactive_session();

-- Argument: the entity.
CREATE FUNCTION platform.release_digests() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM platform.secret_digest WHERE entity = TG_ARGV[0] AND entity_id = OLD.id_;
    RETURN NULL;
END
$$;

CREATE TRIGGER release_digests AFTER DELETE ON platform.user_token
    FOR EACH ROW EXECUTE FUNCTION platform.release_digests('user_token');

CREATE TRIGGER release_digests AFTER DELETE ON platform.interactive_session
    FOR EACH ROW WHEN (platform.is_coordinator()) EXECUTE FUNCTION platform.release_digests('interactive_session');
