-- A cached result is found by a digest, because parameters outgrow what an index entry can hold.
-- convert_to() is marked stable because it depends on the name of an encoding; with a constant one it is not.
CREATE FUNCTION platform.job_cache_digest(parameters text, workspace_hash text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN sha256(sha256(convert_to(parameters, 'UTF8')) || sha256(convert_to(workspace_hash, 'UTF8')));
