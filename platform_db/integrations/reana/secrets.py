"""Access tokens: decrypted with REANA's key, and sealed again with ours."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import crypto, errors
from platform_db.crypto.token_format import require_well_formed
from platform_db.integrations.reana.expressions import utc
from platform_db.integrations.reana.source import Source
from platform_db.integrations.reana.table import Page
from platform_db.models import UserToken
from platform_db.models.token import EVERY_SCOPE

KEY_VARIABLE = "REANA_SECRET_KEY"


def read_old_key(file: Path | None) -> str:
    """Return REANA's secret key from a file, or from the variable that REANA reads.

    :raises errors.SecretKeyError: neither is there.
    """
    text = file.read_text(encoding="utf-8") if file else os.environ.get(KEY_VARIABLE, "")
    key = text.removesuffix("\n")
    if not key:
        raise errors.SecretKeyError(
            "REANA's secret key is not given",
            hint=f"set {KEY_VARIABLE} as REANA has it, or give --old-key-file",
        )
    return key


class OldKey:
    """Decrypts what REANA stored encrypted."""

    def __init__(self, key: str) -> None:
        from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, StringEncryptedType

        self._type = StringEncryptedType(sa.String, key, AesEngine, "pkcs5")

    def decrypt(self, stored: Any) -> str | None:
        """Return the value, None where it was encrypted with another key or is damaged."""
        try:
            return str(self._type.process_result_value(bytes(stored).decode("ascii"), None))
        except Exception:  # of the library, of base64, of the cipher and of UTF-8: all mean the same
            return None


@dataclass(frozen=True)
class Token:
    """A token of REANA's, as it is to be here.

    :param value: None where it has none that can be taken.
    """

    id_: str
    owner_id: str
    status: str
    created: Any
    updated: Any
    value: str | None
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def is_moved(self) -> bool:
        return all(outcome == "transformed" for outcome, _ in self.notes)

    def line(self, digest: bytes | None) -> str:
        """Return what is compared of it."""
        return repr((self.id_, self.status, self.created, self.updated, digest))


class Tokens:
    """The table of tokens, whose keys are users."""

    name, kept = "user_token", False

    def __init__(self, key: str) -> None:
        self.key = OldKey(key)
        self.ring = crypto.get_key_ring()

    def read(self, source: Source, condition: str = "true") -> Iterator[Token]:
        """Yield the tokens of users who meet a condition.

        Of several active ones the newest stays, of several requested ones, too; the others are revoked.
        """
        query = f"""
            SELECT t.id_, t.user_id, t.status::text AS status, {utc("t.created")} AS created,
                   {utc("t.updated")} AS updated, t.token,
                   row_number() OVER (
                       PARTITION BY t.user_id, t.status ORDER BY t.created DESC, t.id_ DESC) AS place
            FROM __reana.user_token AS t WHERE {condition.format(key="t.user_id")}
            ORDER BY t.user_id, t.created, t.id_
        """
        for row in source.stream(query):
            yield self._mapped(row)

    def _mapped(self, row: Any) -> Token:
        status, notes = row.status, []
        value = None if row.token is None else self.key.decrypt(row.token)
        if status is None:
            notes.append(("left out", "it has no status"))
        elif status in ("active", "requested") and row.place > 1:
            notes.append(("transformed", f"a newer one is {status}: it is revoked"))
            status = "revoked"
        if row.token is not None and value is None:
            outcome = "refused" if status == "active" else "transformed"
            notes.append((outcome, "its value does not decrypt with the key that was given"))
        elif value is not None:
            try:
                require_well_formed(value)
            except errors.MalformedToken:
                value = None
                outcome = "refused" if status == "active" else "transformed"
                notes.append((outcome, "its value is empty, or begins as those that platform-db makes"))
        elif status == "active":
            notes.append(("refused", "it is active without a value"))
        return Token(str(row.id_), str(row.user_id), status, row.created, row.updated, value, tuple(notes))

    def notes(self, source: Source) -> Iterator[tuple[str, str, str]]:
        """Yield the id, the outcome and the reason for what the report says.

        :raises errors.SecretKeyError: no value decrypts: the key is another one.
        """
        encrypted = decrypted = 0
        for token in self.read(source):
            encrypted += any("decrypt" in reason for _, reason in token.notes)
            decrypted += token.value is not None
            for outcome, reason in token.notes:
                yield token.id_, outcome, reason
        if encrypted and not decrypted:
            raise errors.SecretKeyError(
                f"REANA's key that was given decrypts none of its {encrypted} tokens",
                hint=f"{KEY_VARIABLE} is the one that REANA's services have; its default is the word reana",
            )

    def source_digests(self, source: Source, page: Page) -> dict[str, tuple[int, str]]:
        """Return the number of tokens and their digest, by user."""
        lines: dict[str, list[str]] = {}
        for token in self.read(source, page.condition("{key}")):
            if token.is_moved:
                digest = None if token.value is None else self.ring.digest(token.value)
                lines.setdefault(token.owner_id, []).append(token.line(digest))
        return _digests(lines)

    def target_digests(self, session: Session, page: Page) -> dict[str, tuple[int, str]]:
        """Return the same of what is stored, without tokens that were issued here."""
        lines: dict[str, list[str]] = {}
        query = f"""
            SELECT t.id_, t.owner_id, t.status::text, t.created, t.updated, t.token_digest
            FROM platform.user_token AS t WHERE {page.condition("t.owner_id")} AND {_NOT_ISSUED_HERE}
            ORDER BY t.owner_id, t.created, t.id_
        """
        for id_, owner_id, status, created, updated, digest in session.connection().exec_driver_sql(query):
            stored = None if digest is None else bytes(digest)
            line = Token(str(id_), str(owner_id), status, created, updated, None).line(stored)
            lines.setdefault(str(owner_id), []).append(line)
        return _digests(lines)

    def delete(self, session: Session, keys: list[str]) -> int:
        """Delete the users' tokens that are REANA's."""
        statement = (
            f"DELETE FROM platform.user_token AS t WHERE t.owner_id = ANY(%s::uuid[]) AND {_NOT_ISSUED_HERE}"
        )
        return session.connection().exec_driver_sql(statement, (keys,)).rowcount

    def copy(self, source: Source, session: Session, keys: list[str]) -> int:
        """Store the users' tokens, sealed with the newest key."""
        chosen = "{key} = ANY(ARRAY[" + ", ".join(f"'{key}'" for key in keys) + "]::uuid[])"
        rows = [self._sealed(token) for token in self.read(source, chosen) if token.is_moved]
        if rows:
            session.connection().execute(sa.insert(UserToken), rows)
        return len(rows)

    def _sealed(self, token: Token) -> dict[str, Any]:
        sealed = digest = None
        others: list[bytes] = []
        if token.value is not None:
            sealed = self.ring.encrypt(token.value, f"user_token.token:{token.id_}")
            digest, *others = self.ring.digests(token.value)
        return {
            "id_": token.id_,
            "owner_id": token.owner_id,
            "type_": "access",
            "status": token.status,
            "token": sealed,
            "token_digest": digest,
            "other_token_digests": others or None,
            "scopes": [] if sealed is None else [EVERY_SCOPE],
            "created": token.created,
            "updated": token.updated,
        }


# What is issued here is recorded with its id, and an import is not.
_NOT_ISSUED_HERE = """NOT EXISTS (
    SELECT FROM platform.audit_log AS log
    WHERE log.owner_id = t.owner_id AND log.details ->> 'token_id' = t.id_::text)"""


def _digests(lines: dict[str, list[str]]) -> dict[str, tuple[int, str]]:
    return {
        key: (len(of_key), hashlib.sha256("\n".join(of_key).encode()).hexdigest())
        for key, of_key in lines.items()
    }
