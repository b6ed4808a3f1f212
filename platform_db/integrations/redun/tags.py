"""Recording tags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from redun.backends.base import TagEntity
from redun.backends.db import db_retry, use_acquire
from redun.hashing import hash_tag

from platform_db.integrations.redun.part import Part

_METHOD = "record_tags"

Recorded = list[tuple[str, str, str, Any]]
"""Hash, entity, key and value of each tag."""


class Tags(Part):
    """The methods about tags."""

    @db_retry
    @use_acquire
    def record_tags(
        self,
        entity_type: TagEntity,
        entity_id: str,
        tags: Iterable[tuple[str, Any]],
        parents: Iterable[str] = (),
        update: bool = False,
        new: bool = False,
    ) -> Recorded:
        """Record tags of an entity.

        :param parents: tags that these take the place of.
        :param update: whether they take the place of all current ones with the same keys.
        :param new: whether they become current even where they were replaced before.
        """
        tags, parents = list(tags), list(parents)
        if not tags:
            return []
        if update or new or parents:
            with self._replacing(entity_id):
                replaced: Recorded = super().record_tags(entity_type, entity_id, tags, parents, update, new)
            return replaced
        self.end_transaction()
        recorded = []
        for key, value in tags:
            tag_hash = hash_tag(entity_id, key, value, [])
            row = {
                "tag_hash": tag_hash,
                "entity_type": entity_type.name,
                "entity_id": entity_id,
                "key": key,
                "value": value,
                "is_current": True,
            }
            self.recorder.put("entity_tag", tag_hash, row, _METHOD)
            recorded.append((tag_hash, entity_id, key, value))
        return recorded

    @db_retry
    @use_acquire
    def delete_tags(
        self, entity_id: str, tags: Iterable[tuple[str, Any]], keys: Iterable[str] = ()
    ) -> Recorded:
        """Delete tags of an entity, by key and value or by key."""
        with self._replacing(entity_id):
            deleted: Recorded = super().delete_tags(entity_id, tags, keys)
        return deleted

    @db_retry
    @use_acquire
    def update_tags(
        self,
        entity_type: TagEntity,
        entity_id: str,
        old_keys: Iterable[str],
        new_tags: Iterable[tuple[str, Any]],
    ) -> Recorded:
        """Replace the current tags of these keys by others."""
        with self._replacing(entity_id):
            updated: Recorded = super().update_tags(entity_type, entity_id, old_keys, new_tags)
        return updated

    @contextmanager
    def _replacing(self, entity_id: str) -> Iterator[None]:
        """Let one writer after another read what is current of an entity, and replace it."""
        self.end_transaction()
        with self.session.holding(f"{self.owner_id}/{entity_id}"):
            yield
