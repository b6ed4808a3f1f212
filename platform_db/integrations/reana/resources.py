"""Resources: REANA's are found here by their names, since both make their own."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.integrations.reana.source import Source
from platform_db.models import Resource, ResourceType
from platform_db.settings import get_settings


def find_resources(source: Source, session: Session) -> tuple[dict[str, str], dict[str, int | None]]:
    """Return the id here of each of REANA's resources, and the default limit by that id.

    One that is not here yet keeps its id. One of another type than processing time or disk has nothing here
    that would count it.
    """
    here = {name: str(id_) for name, id_ in session.execute(sa.select(Resource.name, Resource.id_))}
    settings, ids, limits = get_settings(), {}, {}
    for row in source.rows(_RESOURCES):
        id_ = ids[str(row.id_)] = here.get(row.name, str(row.id_))
        of_disk = ResourceType(row.type_) is ResourceType.disk
        limits[id_] = settings.default_quota_disk_limit if of_disk else settings.default_quota_cpu_limit
    return ids, limits


def create_resources(source: Source, session: Session, ids: dict[str, str]) -> None:
    """Create the resources that are not here yet."""
    known = set(map(str, session.scalars(sa.select(Resource.id_))))
    session.add_all(
        Resource(id_=row.id_, name=row.name, type_=row.type_, unit=row.unit, title=row.title or row.name)
        for row in source.rows(_RESOURCES)
        if ids[str(row.id_)] not in known
    )
    session.flush()
    Resource.initialise_default_resources(session)


_RESOURCES = """
    SELECT id_, name, type_::text, CASE type_ WHEN 'cpu' THEN 'milliseconds' ELSE 'bytes' END AS unit, title
    FROM __reana.resource WHERE type_ IN ('cpu', 'disk') ORDER BY name
"""
