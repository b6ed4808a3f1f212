CREATE TYPE platform.interactive_session_type AS ENUM ('jupyter');

CREATE TYPE platform.job_status AS ENUM ('created', 'queued', 'running', 'finished', 'failed', 'stopped');

CREATE TYPE platform.resource_type AS ENUM ('cpu', 'disk');

CREATE TYPE platform.resource_unit AS ENUM ('milliseconds', 'bytes');

CREATE TYPE platform.run_status AS ENUM ('created', 'queued', 'pending', 'running', 'finished', 'failed', 'stopped', 'deleted');

CREATE TYPE platform.service_type AS ENUM ('dask');

CREATE TYPE platform.user_token_status AS ENUM ('requested', 'active', 'revoked');

CREATE TYPE platform.user_token_type AS ENUM ('access', 'personal', 'session', 'webhook');

CREATE TYPE platform.workflow_access_type AS ENUM ('read');

CREATE TYPE platform.workspace_retention_rule_status AS ENUM ('created', 'active', 'inactive', 'pending', 'applied');

CREATE FUNCTION platform.job_cache_digest(parameters text, workspace_hash text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN sha256(sha256(convert_to(parameters, 'UTF8')) || sha256(convert_to(workspace_hash, 'UTF8')));
