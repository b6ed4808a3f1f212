"""Returns: a pending run whose worker died is queued again, and waits longer each time."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.distribution import execute_by_owner
from platform_db.lifecycle.restarts import DELAY, LONGEST_DELAY, MOST_RESTARTS, next_start
from platform_db.lifecycle.statements import NOTE_REASON
from platform_db.lifecycle.target import Key
from platform_db.models import Workflow
from platform_db.models.expiry import expire_row

TOO_OFTEN = f"it was queued again as often as allowed ({MOST_RESTARTS})"


def return_to_queue(session: Session, runs: Sequence[Key], *, reason: str) -> list[Key]:
    """Queue pending runs again, and return those that have not come back as often as allowed.

    A run that kills its workers before it starts would otherwise go round for ever. A note with the topic
    ``return`` in its history counts each time since it was started last.

    :param runs: the caller has locked their rows.
    """
    parameters = {
        "reason": reason,
        "first": DELAY.total_seconds(),
        "longest": LONGEST_DELAY.total_seconds(),
        "most": MOST_RESTARTS,
    }
    rows = execute_by_owner(session.connection(), _RETURN, runs, parameters)
    returned = [(owner_id, id_) for owner_id, id_ in rows]
    for key in returned:
        expire_row(session, Workflow, key, ("status", "revision", "updated", "start_after"))
    return returned


_RETURN = sa.text(f"""
    WITH reason AS MATERIALIZED ({NOTE_REASON}),
    pending AS MATERIALIZED (
        SELECT run.owner_id, run.id_, (
            SELECT count(*) FROM platform.note
            WHERE note.owner_id = run.owner_id AND note.entity_id = run.id_ AND note.entity = 'workflow'
              AND topic = 'return' AND at >= coalesce(run.run_started_at, '-infinity')
        ) AS returns
        FROM platform.workflow AS run
        WHERE (owner_id, id_) IN (
            SELECT * FROM unnest(CAST(:owners AS uuid[]), CAST(:ids AS uuid[])) AS given
        ) AND status = 'pending'
    ),
    returned AS (
        UPDATE platform.workflow AS target SET status = 'queued', start_after = {next_start("returns")}
        FROM pending, reason
        WHERE target.owner_id = pending.owner_id AND target.id_ = pending.id_ AND returns < :most
        RETURNING target.owner_id, target.id_, returns
    ),
    noted AS (
        INSERT INTO platform.note (id_, owner_id, entity, entity_id, topic, message, details)
        SELECT gen_random_uuid(), owner_id, 'workflow', id_, 'return', 'queued again: ' || :reason,
               jsonb_build_object('returns', returns + 1)
        FROM returned
    )
    SELECT owner_id, id_ FROM returned
    """)
