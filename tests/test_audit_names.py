"""Functions in front of PostgreSQL's own prove nothing: the log is hashed where no login can put one."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import audit, database, errors
from platform_db.models import AuditLog
from tests.tenants import make_tenant, prepare_roles

Factory = orm.sessionmaker[orm.Session]

# Each answers as if the edited row were what it was, or hides what there is to see.
SHADOWS = """
CREATE FUNCTION public.sha256(bytea) RETURNS bytea LANGUAGE sql AS
    $$SELECT content_hash FROM platform.audit_seal ORDER BY number LIMIT 1$$;
CREATE FUNCTION public.json_build_array(VARIADIC anyarray) RETURNS json LANGUAGE sql AS $$SELECT '[]'::json$$;
CREATE FUNCTION public.json_build_array(uuid, uuid, uuid, text, jsonb, text, inet, text, numeric)
    RETURNS json LANGUAGE sql AS $$SELECT '[]'::json$$;
CREATE FUNCTION public.convert_to(text, name) RETURNS bytea LANGUAGE sql AS $$SELECT ''::bytea$$;
CREATE FUNCTION public.date_part(text, timestamptz) RETURNS float8 LANGUAGE sql AS $$SELECT 0$$;
CREATE FUNCTION public.extract(text, timestamptz) RETURNS numeric LANGUAGE sql AS $$SELECT 0$$;
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$SELECT timestamptz '2000-01-01Z'$$;
CREATE FUNCTION public.nextval(regclass) RETURNS bigint LANGUAGE sql AS $$SELECT 1$$;
CREATE FUNCTION public.count(*) RETURNS bigint LANGUAGE sql AS $$SELECT 0$$;
CREATE FUNCTION public.never(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$SELECT false$$;
CREATE OPERATOR public.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = public.never);
CREATE OPERATOR public.>= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = public.never);
CREATE FUNCTION public.jsonb_build_object(text, uuid, text, bigint, text, bigint)
    RETURNS jsonb LANGUAGE sql AS $$SELECT '{}'::jsonb$$;
"""
