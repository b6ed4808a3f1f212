"""Moving every stored secret to the newest key, while services go on with either.

First every process must know both keys; then this runs; then the old key may go. It can be killed and run
again at any time: what is done is done, the rest is found by its key id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import crypto, errors
from platform_db.audit import record_action
from platform_db.bounds import require_limit
from platform_db.database.session import SessionFactory
from platform_db.models import NOBODY, AuditLogAction
from platform_db.tokens.keys import SecretColumn, report_keys, secret_columns

BATCH = 500

# Others may go on writing with an older key, or hold locks on rows: after so many passes they are reported.
PASSES = 5


@dataclass
class Rotation:
    """What a rotation did.

    :param key_id: the id of the newest key, in hexadecimal digits.
    :param rotated: secrets that were moved to it.
    :param remaining: secrets that are on other keys still: they were locked, or written meanwhile.
    :param failed: secrets that cannot be moved, as ``table.column:row``, and why.
    """

    key_id: str
    rotated: int = 0
    remaining: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def raise_for_problems(self) -> None:
        """Raise :class:`errors.PartialFailure` where a secret is not on the newest key."""
        if self.failed:
            raise errors.PartialFailure(f"{len(self.failed)} secrets cannot be moved")
        if self.remaining:
            raise errors.PartialFailure(
                f"{self.remaining} secrets are not on the newest key: they were locked, or a process still "
                "writes with an older key; run this again"
            )


def rotate(
    factory: SessionFactory, *, batch: int = BATCH, progress: Callable[[int, int], None] | None = None
) -> Rotation:
    """Encrypt and digest every secret with the newest key. Each batch is a transaction of its own.

    :param factory: makes the sessions.
    :param batch: rows per transaction; they are locked for as long as it takes to encrypt them.
    :param progress: is called after each batch: how many secrets are done, and how many there were to do.
    :raises errors.SecretKeyError: a key that is in use is not configured; nothing is changed.
    """
    require_limit(batch, "batch size")
    ring = crypto.get_key_ring()
    rotation = Rotation(ring.newest.id_.hex())
    with factory() as session, session.begin():
        stale = _count_stale(session, ring)
        if not stale:
            return rotation
        details = {"key_id": rotation.key_id, "secrets": stale}
        record_action(session, NOBODY, AuditLogAction.rotate_keys, details)

    for column in secret_columns():
        mover = _Mover(column, ring, batch, rotation)
        for _ in range(PASSES):
            before, after = rotation.rotated, None
            while True:
                with factory() as session, session.begin():
                    after = mover.move(session, after)
                if after is None:
                    break
                if progress is not None:
                    progress(rotation.rotated, stale)
            if rotation.rotated == before:
                break
    with factory() as session:
        rotation.remaining = _count_stale(session, ring) - len(rotation.failed)
    return rotation


def _count_stale(session: Session, ring: crypto.KeyRing) -> int:
    """Check that the ring has every key that is in use, and return how many secrets are not on the newest."""
    report = report_keys(session)
    report.require_keys()
    return sum(key.secrets for key in report.keys if key.key_id != ring.newest.id_.hex())


@dataclass(frozen=True)
class _Mover:
    """Moves a batch of one column's secrets at a time."""

    column: SecretColumn
    ring: crypto.KeyRing
    size: int
    rotation: Rotation

    def move(self, session: Session, after: str | None) -> str | None:
        """Move secrets of rows after this one that are not locked, and return the last row, None for none."""
        # Not a hot statement: it is built for its column each time.
        query = sa.text(f"""
            SELECT owner_id, id_, {self.column.name} AS secret FROM platform.{self.column.table}
            WHERE (CAST(:after AS uuid) IS NULL OR id_ > CAST(:after AS uuid))
              AND {self.column.name} IS NOT NULL
              AND substring({self.column.name} FROM 2 FOR {crypto.KEY_ID_BYTES}) <> :key_id
            ORDER BY id_ LIMIT :size
            FOR UPDATE SKIP LOCKED
            """)
        parameters = {"after": after, "key_id": self.ring.newest.id_, "size": self.size}
        rows = session.connection().execute(query, parameters).all()
        if not rows:
            return None
        moved = [values for row in rows if (values := self._with_newest_key(row)) is not None]
        self.rotation.rotated += self._store(session, moved)
        return str(rows[-1].id_)

    def _with_newest_key(self, row: Any) -> dict[str, Any] | None:
        """Return a row's key, and its secret encrypted and digested with the newest key."""
        context = self.column.context(row.id_)
        try:
            value = self.ring.decrypt(bytes(row.secret), context)
        except errors.SecretKeyError as error:
            self.rotation.failed[context] = str(error)
            return None
        return {
            "owner": row.owner_id,
            "id": row.id_,
            "secret": self.ring.encrypt(value, context),
            "digest": self.ring.digest(value),
        }

    def _store(self, session: Session, moved: list[dict[str, Any]]) -> int:
        """Store the rows' secrets, and return of how many rows; one that is refused keeps no other back."""
        update = sa.text(f"""
            UPDATE platform.{self.column.table} AS target
            SET {self.column.name} = moved.secret, {self.column.digest} = moved.digest
            FROM unnest(CAST(:owner AS uuid[]), CAST(:id AS uuid[]), CAST(:secret AS bytea[]),
                        CAST(:digest AS bytea[])) AS moved (owner_id, id_, secret, digest)
            WHERE target.owner_id = moved.owner_id AND target.id_ = moved.id_
            """)
        names = ("owner", "id", "secret", "digest")
        try:
            with session.begin_nested():
                values = {name: [row[name] for row in moved] for name in names}
                return session.connection().execute(update, values).rowcount
        except errors.TokenError as error:
            if len(moved) > 1:
                return sum(self._store(session, [row]) for row in moved)
            self.rotation.failed[self.column.context(moved[0]["id"])] = str(error)
            return 0
