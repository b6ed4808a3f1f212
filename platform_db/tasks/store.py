"""A cluster's history of tasks, as a scheduler uses it: records by their ids, and filters over them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from platform_db import errors
from platform_db.bounds import require_amount, require_seconds
from platform_db.database import create_engine
from platform_db.database.distribution import engine_is_distributed, execute_together
from platform_db.database.kept_connection import KeptConnection
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.tasks.conditions import Condition, condition, read_filter
from platform_db.tasks.culling import Culling
from platform_db.tasks.encoding import (
    EXTRA,
    Encoded,
    Record,
    decode_record,
    decode_text,
    encode_record,
    encode_text,
    merge,
)
from platform_db.tasks.matching import meets
from platform_db.tasks.new_ids import NewIds
from platform_db.tasks.recent import RecentRecords
from platform_db.tasks.statements import READ, TABLE, WRITTEN, History, read_record, select_text
from platform_db.tasks.writer import Batch, BatchWriter
from platform_db.tenancy.privileges import Role, role_name

logger = logging.getLogger(__name__)

MEBIBYTE = 1024**2


class TaskStore:
    """The task records of one owner's cluster.

    Any number of stores may share a history. What another store changes, or a pruning deletes, ``find`` sees
    at once, and ``get`` within ten seconds.

    A record is a dictionary. ``header``, ``metadata``, ``content``, ``result_header``, ``result_metadata``,
    ``result_content``, ``execute_result`` and ``error`` are messages: anything that JSON has, times and bytes
    too. ``buffers`` and ``result_buffers`` are lists of bytes. ``submitted``, ``started``, ``completed`` and
    ``received`` are times, and the others texts. Keys beyond these are kept as messages.

    What is added or changed is in memory at once, for this store's own reads, and on the disk within
    ``commit_delay`` and the time of one transaction. Whatever a filter finds is on the disk.

    :param database: where to connect, or an engine whose connections are to be made the same way.
    :param owner: whose records these are.
    :param cluster: the name of the history.
    :param as_tenant: whether to work as the role of tenants, which sees the owner's rows alone.
    :param ids_count_up: whether ids are ``CLIENT_NUMBER``, and each client counts up its numbers at this
        store alone: then an id beyond the client's highest one is not looked for.
    :param commit_delay: seconds from the first record of a batch to its commit; with 0, each call commits.
    :param record_limit: how many records the history keeps; 0 is no limit. Completed ones go, oldest first.
    :param size_limit: how many bytes they may have; 0 is no limit.
    :param cull_fraction: how much more than necessary goes when a limit is reached, as a part of it.
    :param buffer_limit: bytes that wait in memory while the server does not answer; beyond, calls wait.
    :param memory_limit: bytes of records that are kept in memory to be read again.
    """

    def __init__(
        self,
        database: URL | str | sa.Engine,
        owner: UserOrId,
        cluster: str = "default",
        *,
        as_tenant: bool = False,
        ids_count_up: bool = False,
        commit_delay: float = 0.05,
        record_limit: int = 0,
        size_limit: int = 0,
        cull_fraction: float = 0.1,
        buffer_limit: int = 256 * MEBIBYTE,
        memory_limit: int = 64 * MEBIBYTE,
    ) -> None:
        require_seconds(commit_delay, "commit delay")
        self.history = History(str(user_id_of(owner)), encode_text(cluster))
        # Each text of statements is a transaction of its own: a read takes one round trip.
        self._engine = create_engine(database, isolation_level="AUTOCOMMIT")
        enter = ""
        if as_tenant:
            enter = (
                f"SET LOCAL ROLE {role_name(Role.tenant)};"
                f"SET LOCAL platform.user_id = '{self.history.owner_id}';"
            )
        self._reading = KeptConnection(self._engine, enter)
        self._recent = RecentRecords(require_amount(memory_limit, "memory limit"))
        self._new_ids = NewIds(self._read_highest) if ids_count_up else None
        self._culling = Culling(self.history, record_limit, size_limit, cull_fraction)
        self._writer = BatchWriter(
            self._engine,
            self.history,
            enter=enter,
            delay=commit_delay,
            buffer_limit=require_amount(buffer_limit, "buffer limit"),
            stored=self._cull,
            refused=self._put_aside,
        )

    def add(self, msg_id: str, record: Mapping[str, Any]) -> None:
        """Store a new record. One of this id that another store wrote is replaced.

        :raises KeyError: this store has added, changed or read a record of this id within ten seconds, or has
            not committed it yet.
        :raises ValueError: a time is none.
        :raises TypeError: a value is of a type that cannot be stored.
        """
        id_ = _encoded_id(msg_id)
        if id_ in self._recent or self._writer.pending(id_).record is not None:
            raise KeyError(f"there is a task record {msg_id} already")
        encoded = encode_record(record)
        self._write(self._writer.add, id_, encoded, encoded)
        if self._new_ids is not None:
            self._new_ids.remove(id_)

    def update(self, msg_id: str, changes: Mapping[str, Any]) -> None:
        """Change keys of a record; where there is none, nothing happens.

        :raises ValueError: a time is none.
        :raises TypeError: a value is of a type that cannot be stored.
        """
        encoded = encode_record(changes, changes=True)
        if not encoded.values:
            return
        id_ = _encoded_id(msg_id)
        known = self._recent.get(id_, also_old=True)
        changed = None if known is None else merge(known, encoded)
        self._write(self._writer.change, id_, encoded, changed, is_change=True)

    def get(self, msg_id: str) -> Record:
        """Return a copy of a record, with what is not committed yet.

        While the server does not answer, what this store remembers is returned, however old it is.

        :raises KeyError: there is none of this id.
        :raises errors.Unreachable: the server does not answer, and this store does not remember it.
        """
        id_ = _encoded_id(msg_id)
        encoded = self._recent.get(id_)
        if encoded is None:
            # Asked first: what is committed between the two is in both, and the same.
            pending = self._writer.pending(id_)
            encoded = pending.record
            if encoded is None and not (self._new_ids is not None and self._new_ids.has(id_)):
                try:
                    encoded = self._read(id_)
                except errors.Unreachable:
                    old = self._recent.get(id_, also_old=True)
                    if old is None:
                        raise
                    return decode_record(msg_id, old.values.items())
            if encoded is None:
                raise KeyError(f"there is no task record {msg_id}")
            if pending.changes is not None:
                encoded = merge(encoded, pending.changes)
            self._recent.put(id_, encoded)
        return decode_record(msg_id, encoded.values.items())

    def find(
        self, filter_: Mapping[str, Any] | None = None, keys: Sequence[str] | None = None
    ) -> list[Record]:
        """Return the records that meet a filter.

        :param filter_: in MongoDB's manner (:mod:`platform_db.query.language`): None stands for what is not
            there, times may be text in ISO 8601.
        :param keys: the keys to return, beside ``msg_id``; by default all.
        :raises errors.InvalidFilter: says what is wrong.
        :raises KeyError: a record does not have one of the keys.
        """
        node = read_filter(filter_)
        where = condition(self.history, node)
        # Where SQL cannot decide, the whole record is looked at.
        names = WRITTEN if not keys or not where.is_exact else tuple({*WRITTEN} & {*keys, EXTRA})
        self.flush()
        return [
            decode_record(msg_id, zip(names, row, strict=False), keys or None)
            for msg_id, row in self._select(names, where)
            if where.is_exact or meets(decode_record(msg_id, zip(names, row, strict=False)), node)
        ]

    def list_ids(self) -> list[str]:
        """Return the ids of all records that were submitted, in the order of their submission."""
        self.flush()
        rows = self._reading.execute(
            f"SELECT msg_id FROM {TABLE} WHERE owner_id = %s::uuid AND cluster = %s"
            " AND submitted IS NOT NULL ORDER BY submitted, msg_id",
            self.history,
        )
        return [decode_text(msg_id) for (msg_id,) in rows]

    def drop(self, msg_id: str) -> None:
        """Delete a record.

        :raises KeyError: there is none of this id.
        """
        if not self.drop_matching({"msg_id": msg_id}):
            raise KeyError(f"there is no task record {msg_id}")

    def drop_matching(self, filter_: Mapping[str, Any] | None) -> int:
        """Delete the records that meet a filter, and return how many.

        :raises errors.InvalidFilter: says what is wrong.
        """
        node = read_filter(filter_)
        where = condition(self.history, node)
        if not where.is_exact:
            found = [record["msg_id"] for record in self.find(filter_, ["msg_id"])]
            where = condition(self.history, read_filter({"msg_id": {"$in": found}}))
        self.flush()
        rows = self._delete(f"DELETE FROM {TABLE} WHERE {where.sql} RETURNING msg_id", where.values)
        self._recent.forget(msg_id for (msg_id,) in rows)
        return len(rows)

    def connect(self) -> None:
        """Open the connection for reading, which the first read would wait for otherwise.

        :raises errors.Unreachable: the server does not answer.
        """
        self._reading.execute("SELECT 1", ())

    def flush(self) -> None:
        """Return when all that was added or changed before is on the disk.

        :raises errors.Unreachable: the server does not answer, or takes no writes; nothing is lost, and it is
            tried again.
        :raises errors.RolesMissing: this login may not write.
        """
        self._writer.flush()

    def close(self) -> None:
        """Flush, end the writer's thread and close the connections; it happens at exit by itself, too."""
        self._writer.close()
        self._reading.close()
        self._engine.dispose()

    def _write(
        self,
        put: Callable[[str, Encoded], None],
        msg_id: str,
        encoded: Encoded,
        record: Encoded | None,
        *,
        is_change: bool = False,
    ) -> None:
        # Remembered before it is written: where it is put aside, it is forgotten then.
        if record is not None:
            self._recent.put(msg_id, record, is_change=is_change)
        try:
            put(msg_id, encoded)
        except BaseException:
            self._recent.forget([msg_id])
            raise

    def _read(self, msg_id: str) -> Encoded | None:
        (row,) = self._reading.execute(READ, (*self.history, msg_id))
        return read_record(*row)

    def _read_highest(self, client: str) -> int:
        """Return the highest number that ids of a client have."""
        self.flush()  # What is pending has numbers, too.
        ((highest,),) = self._reading.execute(
            f"SELECT coalesce(max(substr(msg_id, %s)::bigint), 0) FROM {TABLE}"
            " WHERE owner_id = (SELECT %s::uuid) AND msg_id ^@ %s AND substr(msg_id, %s) ~ '^[0-9]{1,18}$'",
            (len(client) + 1, self.history.owner_id, client, len(client) + 1),
        )
        return int(highest)

    def _select(self, names: Sequence[str], where: Condition) -> Iterator[tuple[str, Sequence[Any]]]:
        statement = f"SELECT {select_text((*names, 'msg_id'))} FROM {TABLE} WHERE {where.sql}"
        for row in self._reading.execute(statement, where.values):
            yield decode_text(row[-1]), row

    def _delete(self, statement: str, values: tuple[Any, ...]) -> Sequence[Sequence[Any]]:
        lock, owner = self.history.lock_totals
        if engine_is_distributed(self._engine):
            given = ((lock, owner), (statement, values))
            return execute_together(self._engine, self._reading.enter, self.history.owner_id, given)
        return self._reading.execute(f"{lock};{statement}", (*owner, *values))

    def _cull(self, batch: Batch) -> None:
        """Delete the oldest completed records beyond the limits, now and then."""
        if not self._culling.is_due(batch):
            return
        try:
            self._recent.forget(msg_id for (msg_id,) in self._delete(*self._culling.statement()))
        except Exception as error:
            logger.warning("old task records could not be culled: %s", error)

    def _put_aside(self, msg_id: str, reason: str) -> None:
        logger.error("the task record %s was put aside: %s", decode_text(msg_id), reason)
        self._recent.forget([msg_id])


def _encoded_id(msg_id: str) -> str:
    if not isinstance(msg_id, str):
        raise TypeError(f"a task record's id is text, not {type(msg_id).__name__}")
    return encode_text(msg_id)
