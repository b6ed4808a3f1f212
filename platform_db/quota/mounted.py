"""Whether the storage of workspaces is mounted: missing is not empty."""

from __future__ import annotations

import os

import sqlalchemy as sa

from platform_db import errors, settings
from platform_db.database.session import SessionFactory
from platform_db.quota.figures import RUNS
from platform_db.quota.resources import AnyResource
from platform_db.workspaces.opening import require_root
from platform_db.workspaces.paths import roots

# So many workspaces of a root are looked for; on a smaller platform, all of them.
SAMPLE = 1000
# So many may be missing, whatever share of a small platform's that is, but not all of a root.
MISSING_ALLOWED = 20

# Workspaces that take space and have a run left are expected on the disk. Each belongs to the first root that
# it lies below; those below none are a group of their own.
_SURVEY = sa.text(f"""
    WITH found AS (
        SELECT w.workspace_path AS path,
               (SELECT min(number) FROM unnest(CAST(:roots AS text[])) WITH ORDINALITY AS root (path, number)
                WHERE starts_with(w.workspace_path, rtrim(root.path, '/') || '/')) AS root,
               coalesce(max(r.quota_used), 0) > 0 AND NOT bool_and(w.status = 'deleted') AS expected
        FROM {RUNS} GROUP BY w.workspace_path
    ),
    drawn AS (
        SELECT path, root, expected,
               row_number() OVER (PARTITION BY root, expected ORDER BY random()) AS number
        FROM found
    )
    SELECT (CAST(:roots AS text[]))[root] AS root,
           coalesce(array_agg(path) FILTER (WHERE expected AND number <= :sample), '{{}}') AS paths
    FROM drawn GROUP BY 1
    """)


def require_mounted(factory: SessionFactory, resource: AnyResource) -> None:
    """Make sure that the storage of the whole platform's workspaces is there, whatever the scope is.

    Each root that workspaces lie below has to be there and hold something. Of a sample of its workspaces that
    take space, not all may be missing, nor more than :data:`MISSING_ALLOWED` and the share that
    ``PLATFORM_DB_MISSING_WORKSPACES_LIMIT`` allows.

    :raises errors.StorageMissing: says which root, or how many workspaces.
    """
    limit = settings.get_settings().missing_workspaces_limit
    with factory() as session, session.begin():
        parameters = {"resource": resource.id_, "roots": list(roots()), "sample": SAMPLE}
        groups = session.connection().execute(_SURVEY, parameters).all()
    for root, paths in groups:
        if root is not None:
            require_root(root)
        missing = [path for path in paths if not os.path.lexists(path)]
        none_left = root is not None and len(missing) == len(paths)
        if len(missing) * 100 > limit * len(paths) and (none_left or len(missing) > MISSING_ALLOWED):
            where = "outside the roots" if root is None else f"below root {root!r}"
            raise errors.StorageMissing(
                f"{len(missing)} of {len(paths)} workspaces {where} are missing, such as {missing[0]!r}: "
                "no figure is set to 0"
            )
