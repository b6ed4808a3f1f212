"""Users and their limits."""

from __future__ import annotations

from platform_db.integrations.reana.expressions import Mapping, by_key, utc
from platform_db.integrations.reana.table import Table, own


def user_tables(mapping: Mapping) -> list[Table]:
    """Return the tables whose keys are users."""
    known = ", ".join(f"'{id_}'" for id_ in mapping.resources.values())
    return [
        Table(
            "user_",
            rows="__reana.user_ AS u",
            keys=("u.id_",),
            target=own("user_", _NOT_CREATED_HERE),
            id_="u.id_",
            columns={
                "id_": "u.id_",
                "email": f"coalesce({by_key(mapping.emails, 'u.id_')}, u.email)::text",
                "full_name": "u.full_name::text",
                "username": "u.username::text",
                "created": utc("u.created"),
                "updated": utc("u.updated"),
            },
            changed={
                f"{by_key(mapping.emails, 'u.id_')} <> u.email": "it has the e-mail address that was decided"
            },
            kept=True,
            owned=("workflow", "interactive_session", "service"),
        ),
        Table(
            "user_resource",
            rows=f"""__reana.user_ AS u CROSS JOIN ({resources(mapping)}) AS resource
                LEFT JOIN __reana.user_resource AS r
                ON r.user_id = u.id_ AND r.resource_id = resource.source_id""",
            keys=("u.id_",),
            target=f"""platform.user_ AS root CROSS JOIN LATERAL (
                SELECT ctid AS place, * FROM platform.user_resource AS own
                WHERE own.owner_id = root.id_ AND own.resource_id = ANY (ARRAY[{known}]::uuid[]) OFFSET 0
            ) AS row""",
            id_="u.id_ || ' ' || resource.id_",
            columns={
                "owner_id": "u.id_",
                "resource_id": "resource.id_",
                "quota_limit": """CASE WHEN r.user_id IS NULL THEN resource.quota_limit
                    WHEN r.quota_limit <> 0 THEN greatest(0, r.quota_limit) END""",
            },
            changed={
                "r.user_id IS NULL": "there was no limit stored: it is the default one",
                "r.quota_limit < 0": "its limit was below 0: it is 0, which is nothing",
            },
        ),
    ]


# What is created here is recorded, and an import is not.
_NOT_CREATED_HERE = """NOT EXISTS (
    SELECT FROM platform.audit_log AS log WHERE log.owner_id = own.id_ AND log.action = 'create_user')"""


def resources(mapping: Mapping) -> str:
    """Return the query of the source's resources with their ids here."""
    if not mapping.resources:
        return "SELECT NULL::uuid AS source_id, NULL::uuid AS id_, NULL::bigint AS quota_limit WHERE false"
    rows = ", ".join(
        f"('{source}'::uuid, '{id_}'::uuid, {'NULL' if limit is None else limit}::bigint)"
        for source, id_ in mapping.resources.items()
        for limit in [mapping.limits.get(id_)]
    )
    return f"SELECT * FROM (VALUES {rows}) AS known (source_id, id_, quota_limit)"
