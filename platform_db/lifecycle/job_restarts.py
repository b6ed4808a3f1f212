"""Restarts of jobs: what was lost with a worker is queued again as another job of the same run."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.distribution import execute_for
from platform_db.identifiers import new_id
from platform_db.lifecycle.restarts import MOST_RESTARTS
from platform_db.lifecycle.target import Key
from platform_db.states import WORKFLOW


def restart_job(
    session: Session, job: Key, *, reason: str, most_restarts: int = MOST_RESTARTS
) -> uuid.UUID | None:
    """Queue another job of the same run, with the edges of this one, and return its id.

    None where the run has ended, or the job was restarted too often. Notes with the topic ``restart`` in the
    history of both name the other, or say why there is none.
    """
    owner_id, id_ = job
    parameters = {"owner": owner_id, "id": id_, "new_id": new_id(), "reason": reason, "most": most_restarts}
    connection = session.connection()
    restarted: uuid.UUID | None = execute_for(connection, owner_id, _RESTART, parameters).scalar_one_or_none()
    if restarted is not None:
        execute_for(connection, owner_id, _ADD_EDGES, parameters)
    return restarted


_ENDED = ", ".join(f"'{status}'" for status in sorted(WORKFLOW.ended))

_WHAT_IT_DOES = """
    owner_id, workflow_id, compute_backend, job_name, container_image, command, environment, attributes
"""

# Tenants write notes, too: what is no number is not counted.
_RESTART = sa.text(f"""
    WITH former AS MATERIALIZED (
        SELECT {_WHAT_IT_DOES}, id_, NOT EXISTS (
            SELECT FROM platform.workflow AS run
            WHERE run.owner_id = job.owner_id AND run.id_ = job.workflow_id AND run.status IN ({_ENDED})
        ) AS goes_on, (
            SELECT coalesce(max((details ->> 'restarts')::numeric), 0) FROM platform.note
            WHERE owner_id = CAST(:owner AS uuid) AND entity_id = CAST(:id AS uuid)
              AND entity = 'job' AND topic = 'restart' AND jsonb_typeof(details -> 'restarts') = 'number'
        ) AS restarts
        FROM platform.job WHERE owner_id = CAST(:owner AS uuid) AND id_ = CAST(:id AS uuid)
    ),
    restarted AS (
        INSERT INTO platform.job ({_WHAT_IT_DOES}, id_, status)
        SELECT {_WHAT_IT_DOES}, CAST(:new_id AS uuid), 'queued' FROM former
        WHERE goes_on AND restarts < :most
        RETURNING id_
    ),
    noted AS (
        INSERT INTO platform.note (id_, owner_id, entity, entity_id, topic, message, details)
        SELECT gen_random_uuid(), former.owner_id, 'job', note.*
        FROM former LEFT JOIN restarted ON true CROSS JOIN LATERAL (VALUES
            (former.id_, 'restart', CASE
                WHEN restarted.id_ IS NOT NULL THEN 'restarted as ' || restarted.id_
                ELSE 'could not be restarted: ' || CASE WHEN goes_on
                    THEN 'it was restarted as often as allowed (' || :most || ')' ELSE 'its run has ended' END
                END,
             jsonb_build_object('restart', restarted.id_)),
            (restarted.id_, 'restart', 'restarts ' || former.id_ || ': ' || :reason,
             jsonb_build_object('job', former.id_, 'restarts', former.restarts + 1))
        ) AS note (id_, topic, message, details)
        WHERE note.id_ IS NOT NULL
    )
    SELECT id_ FROM restarted
    """)

_ADD_EDGES = sa.text("""
    INSERT INTO platform.job_dependency (owner_id, workflow_id, parent_id, child_id, name, kind)
    SELECT owner_id, workflow_id,
           CASE WHEN parent_id = CAST(:id AS uuid) THEN CAST(:new_id AS uuid) ELSE parent_id END,
           CASE WHEN child_id = CAST(:id AS uuid) THEN CAST(:new_id AS uuid) ELSE child_id END,
           name, kind
    FROM platform.job_dependency
    WHERE owner_id = CAST(:owner AS uuid)
      AND (parent_id = CAST(:id AS uuid) OR child_id = CAST(:id AS uuid))
    """)
