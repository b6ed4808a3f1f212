"""Recording and reading values."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from redun.backends.db import RedunDatabaseError, db_retry
from redun.file import File
from redun.task import Task
from redun.utils import trim_string

from platform_db.integrations.redun.part import Part


class Values(Part):
    """The methods about values."""

    @db_retry
    def record_value(self, value: Any, data: bytes | None = None) -> str:
        """Record a value and return its hash.

        :param data: its bytes, where it is not to be serialized.
        :raises RedunDatabaseError: it has more bytes than ``max_value_size``.
        """
        self.end_transaction()
        return self.put_value(value, data, "record_value")

    def put_value(self, value: Any, data: bytes | None, method: str) -> str:
        """Record a value for ``method``, with its parts."""
        if isinstance(value, Task) and data is None and self.recorder.known(value.hash):
            return str(value.hash)
        interface = self.type_registry.get_value(value)
        if data is None:
            data = interface.serialize()
        if len(data) > self._max_value_size:
            raise RedunDatabaseError(
                f"the value {trim_string(repr(value))} has {len(data)} bytes, and max_value_size is"
                f" {self._max_value_size}: raise it, or keep large values as files by value_store_path"
            )
        value_hash: str = interface.get_hash(data=data)
        if self.recorder.known(value_hash):
            return value_hash
        parts = {
            self.type_registry.get_hash(part, data=part_data): (part, part_data)
            for part in interface.iter_subvalues()
            for part_data in [self.type_registry.serialize(part)]
        }
        stored = {value_hash: self._store(value_hash, data)}
        stored |= {hash_: self._store(hash_, part_data) for hash_, (_, part_data) in parts.items()}
        with self.recorder.together():
            self._put_row(value, value_hash, len(data), stored[value_hash], method)
            for hash_, (part, part_data) in parts.items():
                if not self.recorder.known(hash_):
                    self._put_row(part, hash_, len(part_data), stored[hash_], method)
                edge = {"value_hash": hash_, "parent_value_hash": value_hash}
                self.recorder.put("subvalue", (value_hash, hash_), edge, method)
        return value_hash

    def _store(self, value_hash: str, data: bytes) -> bytes:
        """Return what the database has to store of the bytes of a value."""
        if self.value_store is None or len(data) < self.value_store_min_size:
            return data
        # Before the row that refers to it. What a process that was killed left is not all of it.
        path = self.value_store.get_value_path(value_hash)
        if self.value_store.size(value_hash) != len(data):
            with File(path).open("wb") as file:
                file.write(data)
        else:
            with suppress(OSError):  # such as of another store than a directory
                os.utime(path)  # Pruning leaves it alone for a day.
        return b""

    def _put_row(self, value: Any, value_hash: str, size: int, data: bytes, method: str) -> None:
        row = {
            "value_hash": value_hash,
            "type": self.type_registry.get_type_name(type(value)),
            "format": self.type_registry.get_serialization_format(value),
            "value": data,
            "size": size,
        }
        self.recorder.put("value", value_hash, row, method)
        if isinstance(value, File):
            file = {"value_hash": value_hash, "path": value.path}
            self.recorder.put("value_file", value_hash, file, method)
        elif isinstance(value, Task):
            task = {
                "hash": value_hash,
                "name": value.name,
                "namespace": value.namespace,
                "source": value.source,
            }
            self.recorder.put("call_task", value_hash, task, method)
        self.recorder.remember(value_hash)

    @db_retry
    def get_value(self, value_hash: str) -> tuple[Any, bool]:
        """Return a value, and whether there is one that can be read."""
        row = self.recorder.pending("value", value_hash)
        if row is not None:
            return self.read_value(value_hash, row["type"], row["value"])
        for type_, data in self.recorder.reading.execute(_FIND_VALUE, (str(self.owner_id), value_hash)):
            return self.read_value(value_hash, type_, data)
        return None, False

    def read_value(self, value_hash: str, type_: str, data: bytes) -> tuple[Any, bool]:
        """Return the value that a row means, and whether it can be read."""
        data = bytes(data)
        if not data:
            if self.value_store is None:
                raise RedunDatabaseError(
                    f"the value {value_hash} is in a store of files: set value_store_path, as it was recorded"
                )
            data, found = self.value_store.get(value_hash)
            if not found:
                return None, False
        value: tuple[Any, bool] = self._deserialize_value(type_, data)
        return value


_FIND_VALUE = "SELECT type, value FROM platform.value WHERE owner_id = %s::uuid AND value_hash = %s"
