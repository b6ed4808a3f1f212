"""What the roles and their logins reach beyond this database: roles belong to the whole server.

A member of ``platform_service`` acts as it in each database of the server where that role has privileges. A
prefix of its own for each platform (``PLATFORM_DB_ROLE_PREFIX``) keeps them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.tenancy.privileges import Role, role_name


@dataclass(frozen=True)
class Reach:
    """Another database of the server in which a role of ours has something, or one that a member acts as.

    :ivar role: the role or the login.
    :ivar objects: how many objects there name it: in privileges and policies, or as their owner.
    :ivar connects: whether it may connect there.
    :ivar members: the members of our roles that act as it, where it is none of them itself.
    """

    database: str
    role: str
    objects: int
    connects: bool
    members: list[str] = field(default_factory=list)


def elsewhere(session: Session) -> list[Reach]:
    """Return what the roles, their members, and the roles that these act as, have in other databases."""
    names = [role_name(role) for role in Role]
    return [Reach(*row) for row in session.execute(_READ_ELSEWHERE, {"names": names})]


def open_to_everybody(session: Session) -> str | None:
    """Return the SQL with which the database's owner closes it to logins without a role, if it is open."""
    statement: str | None = session.execute(_READ_OPEN).scalar()
    return statement


# Dependencies on roles are kept for the whole server: 0 stands for what belongs to no database, such as one.
# A superuser seems to be a member of each role.
_READ_ELSEWHERE = sa.text("""
    WITH member AS MATERIALIZED (
        SELECT oid, rolname::text FROM pg_roles
        WHERE NOT rolsuper
          AND EXISTS (SELECT FROM pg_roles AS ours
                      WHERE ours.rolname = ANY (:names) AND pg_has_role(pg_roles.oid, ours.oid, 'USAGE'))
    ), reached AS MATERIALIZED (
        SELECT role.oid, role.rolname, array_agg(member.rolname ORDER BY member.rolname) AS members
        FROM member JOIN pg_roles AS role ON pg_has_role(member.oid, role.oid, 'USAGE')
        GROUP BY role.oid, role.rolname
    )
    SELECT datname, rolname, count(*), has_database_privilege(rolname, datname, 'CONNECT'),
           CASE WHEN rolname = ANY (members) THEN '{}' ELSE members END
    FROM pg_shdepend
    JOIN pg_database ON pg_database.oid = CASE dbid WHEN 0 THEN objid ELSE dbid END
    JOIN reached ON reached.oid = refobjid
    WHERE refclassid = 'pg_authid'::regclass AND (dbid <> 0 OR classid = 'pg_database'::regclass)
      AND datname <> current_database()
    GROUP BY datname, rolname, members ORDER BY datname, rolname
    """)

_READ_OPEN = sa.text("""
    SELECT 'REVOKE ALL ON DATABASE ' || quote_ident(datname) || ' FROM PUBLIC'
    FROM pg_database CROSS JOIN LATERAL aclexplode(coalesce(datacl, acldefault('d', datdba)))
    WHERE datname = current_database() AND grantee = 0 AND privilege_type = 'CONNECT'
    """)
