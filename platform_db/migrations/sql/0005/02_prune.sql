ALTER TABLE platform.user_resource
    ADD COLUMN quota_pruned BIGINT DEFAULT '0' NOT NULL
    CONSTRAINT ck_user_resource_pruned_not_negative CHECK (quota_pruned >= 0);

CREATE FUNCTION platform.forget_workflow() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM deleted) THEN
        RETURN NULL; -- A cascade runs for each parent, also for one without children.
    END IF;
    DELETE FROM platform.lease AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'workflow';
    DELETE FROM platform.note AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'workflow';
    DELETE FROM platform.status_change AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'workflow';
    RETURN NULL;
END
$$;

CREATE TRIGGER forget_workflow AFTER DELETE ON platform.workflow
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget_workflow();

CREATE FUNCTION platform.forget_job() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM deleted) THEN
        RETURN NULL; -- A cascade runs for each parent, also for one without children.
    END IF;
    DELETE FROM platform.lease AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'job';
    DELETE FROM platform.note AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'job';
    DELETE FROM platform.status_change AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'job';
    RETURN NULL;
END
$$;

CREATE TRIGGER forget_job AFTER DELETE ON platform.job
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget_job();

CREATE FUNCTION platform.forget_interactive_session() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM deleted) THEN
        RETURN NULL; -- A cascade runs for each parent, also for one without children.
    END IF;
    DELETE FROM platform.lease AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'interactive_session';
    DELETE FROM platform.note AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'interactive_session';
    DELETE FROM platform.status_change AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'interactive_session';
    RETURN NULL;
END
$$;

CREATE TRIGGER forget_interactive_session AFTER DELETE ON platform.interactive_session
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget_interactive_session();

CREATE FUNCTION platform.forget_service() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM deleted) THEN
        RETURN NULL; -- A cascade runs for each parent, also for one without children.
    END IF;
    DELETE FROM platform.lease AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'service';
    DELETE FROM platform.note AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'service';
    DELETE FROM platform.status_change AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'service';
    RETURN NULL;
END
$$;

CREATE TRIGGER forget_service AFTER DELETE ON platform.service
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget_service();

CREATE FUNCTION platform.forget_user_token() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM deleted) THEN
        RETURN NULL; -- A cascade runs for each parent, also for one without children.
    END IF;
    DELETE FROM platform.lease AS gone USING deleted
    WHERE gone.owner_id = deleted.user_id AND gone.entity_id = deleted.id_ AND gone.entity = 'user_token';
    DELETE FROM platform.note AS gone USING deleted
    WHERE gone.owner_id = deleted.user_id AND gone.entity_id = deleted.id_ AND gone.entity = 'user_token';
    DELETE FROM platform.status_change AS gone USING deleted
    WHERE gone.owner_id = deleted.user_id AND gone.entity_id = deleted.id_ AND gone.entity = 'user_token';
    RETURN NULL;
END
$$;

CREATE TRIGGER forget_user_token AFTER DELETE ON platform.user_token
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget_user_token();

CREATE FUNCTION platform.forget_workspace_retention_rule() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM deleted) THEN
        RETURN NULL; -- A cascade runs for each parent, also for one without children.
    END IF;
    DELETE FROM platform.lease AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'workspace_retention_rule';
    DELETE FROM platform.note AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'workspace_retention_rule';
    DELETE FROM platform.status_change AS gone USING deleted
    WHERE gone.owner_id = deleted.owner_id AND gone.entity_id = deleted.id_ AND gone.entity = 'workspace_retention_rule';
    RETURN NULL;
END
$$;

CREATE TRIGGER forget_workspace_retention_rule AFTER DELETE ON platform.workspace_retention_rule
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget_workspace_retention_rule();
