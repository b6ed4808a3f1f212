"""What the roles and their logins reach beyond this database: roles belong to the whole server.

A member of ``platform_service`` acts as it in each database of the server where that role has privileges. A
prefix of its own for each platform (``PLATFORM_DB_ROLE_PREFIX``) keeps them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.tenancy.privileges import Role, role_name


@dataclass(frozen=True)
class Reach:
    """Another database of the server in which a role of ours, or a member of one, has something.

    :ivar role: the role or the login.
    :ivar objects: how many objects there name it: in privileges and policies, or as their owner.
    :ivar connects: whether it may connect there.
    """

    database: str
    role: str
    objects: int
    connects: bool


def elsewhere(session: Session) -> list[Reach]:
    """Return what the roles and their members have in other databases of the server."""
    names = [role_name(role) for role in Role]
    return [Reach(*row) for row in session.execute(_READ_ELSEWHERE, {"names": names})]


def open_to_everybody(session: Session) -> str | None:
    """Return the SQL with which the database's owner closes it to logins without a role, if it is open."""
    statement: str | None = session.execute(_READ_OPEN).scalar()
    return statement


# Dependencies on roles are kept for the whole server: 0 stands for what belongs to no database, such as one.
_READ_ELSEWHERE = sa.text(
    """
    SELECT datname, rolname, count(*), has_database_privilege(rolname, datname, 'CONNECT')
    FROM pg_shdepend
    JOIN pg_database ON pg_database.oid = CASE dbid WHEN 0 THEN objid ELSE dbid END
    JOIN pg_roles ON pg_roles.oid = refobjid
    WHERE refclassid = 'pg_authid'::regclass AND (dbid <> 0 OR classid = 'pg_database'::regclass)
      AND datname <> current_database() AND NOT rolsuper
      AND EXISTS (SELECT FROM pg_roles AS ours
                  WHERE ours.rolname = ANY (:names) AND pg_has_role(pg_roles.oid, ours.oid, 'USAGE'))
    GROUP BY datname, rolname ORDER BY datname, rolname
    """
)

_READ_OPEN = sa.text(
    """
    SELECT 'REVOKE ALL ON DATABASE ' || quote_ident(datname) || ' FROM PUBLIC'
    FROM pg_database CROSS JOIN LATERAL aclexplode(coalesce(datacl, acldefault('d', datdba)))
    WHERE datname = current_database() AND grantee = 0 AND privilege_type = 'CONNECT'
    """
)
