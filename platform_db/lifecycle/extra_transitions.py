"""Extra transitions: what a platform lets follow what, beyond :mod:`platform_db.states`.

They are rows of ``extra_transition``, which the guard reads where it would refuse. So they hold for every
writer from the commit on, without a restart, and a legal change does not pay for them.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit import recorded_as
from platform_db.crypto.token_format import require_no_token
from platform_db.database.session import takes_session
from platform_db.models import ExtraTransition
from platform_db.models.history import EXTENSIBLE
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.states import MACHINES, Status


@takes_session
def allow_transition(
    session: Session,
    entity: str,
    from_status: Status | str,
    to_status: Status | str,
    *,
    reason: str,
    actor: UserOrId | None = None,
) -> bool:
    """Let a status follow another one which the states do not let it follow; a change is recorded.

    It takes the rights of the tables' owner.

    :param entity: the table, such as ``workflow``. ``user_token`` is none: what is revoked stays revoked.
    :param reason: why the platform needs it. Another reason takes the place of the one before.
    :param actor: the user who allows it, for the audit log.
    :returns: whether anything changed.
    :raises errors.InvalidArgument: the table takes none, the states allow it anyway, or the reason is empty.
    :raises errors.UnknownStatus: the table has no such status.
    :raises errors.TokenInText: a token's value is in the reason.
    """
    if not reason.strip():
        raise errors.InvalidArgument("an extra transition needs a reason")
    require_no_token(reason)
    values = {**_parse(entity, from_status, to_status), "reason": reason}
    with recorded_as(session, actor_id=None if actor is None else user_id_of(actor)):
        return bool(session.connection().execute(_ALLOW, values).rowcount)


@takes_session
def forbid_transition(
    session: Session,
    entity: str,
    from_status: Status | str,
    to_status: Status | str,
    *,
    actor: UserOrId | None = None,
) -> bool:
    """Take an extra transition back; that is recorded. What came through it stays as it is.

    :param actor: the user who forbids it, for the audit log.
    :returns: whether there was one.
    :raises errors.InvalidArgument: the table takes none, or it is the states that allow it.
    :raises errors.UnknownStatus: the table has no such status.
    """
    values = {"entity": entity, "from_status": str(from_status), "to_status": str(to_status)}
    with recorded_as(session, actor_id=None if actor is None else user_id_of(actor)):
        forbidden = bool(session.connection().execute(_FORBID, values).rowcount)
    if not forbidden:  # What was stored can be taken back, whatever the states of this release are.
        _parse(entity, from_status, to_status)
    return forbidden


@takes_session
def list_extra_transitions(session: Session) -> list[ExtraTransition]:
    """Return all extra transitions, by entity and statuses."""
    return list(session.scalars(sa.select(ExtraTransition).order_by(*_KEY)))


_KEY = (ExtraTransition.entity, ExtraTransition.from_status, ExtraTransition.to_status)

_INSERT = postgresql.insert(ExtraTransition)
_ALLOW = _INSERT.on_conflict_do_update(
    index_elements=[column.key for column in _KEY],
    set_={"reason": _INSERT.excluded.reason},
    where=ExtraTransition.reason != _INSERT.excluded.reason,
)

_FORBID = sa.delete(ExtraTransition).where(*(column == sa.bindparam(column.key) for column in _KEY))


def _parse(entity: str, from_status: Status | str, to_status: Status | str) -> dict[str, str]:
    """Return the key of an extra transition that may be stored."""
    if entity not in EXTENSIBLE:
        raise errors.InvalidArgument(
            f"{entity!r} takes no extra transition; choose from {', '.join(EXTENSIBLE)}"
        )
    machine = MACHINES[entity]
    stored, status = machine.status(from_status), machine.status(to_status)
    if machine.allows(stored, status):
        raise errors.InvalidArgument(f"the states let a {entity} go from {stored} to {status} anyway")
    return {"entity": entity, "from_status": stored.value, "to_status": status.value}
