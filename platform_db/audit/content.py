"""What is hashed of a row: its number, a space and its columns as a JSON array, ended by a line feed.

PostgreSQL writes and hashes it, so that verifying does not move the log to the client. Nothing in it
depends on the settings of a session: a time is its seconds since 1970, and JSON writes no line feed inside
a line. The columns are never reordered, and none is ever added: sealed rows must give the same text
forever.
"""

from __future__ import annotations

CONTENT = (
    "json_build_array(id_, owner_id, actor_id, action, details, request_id, address, service,"
    " extract(epoch FROM created))::text"
)

# What follows takes rows of ``number`` and ``content``, so that a statement which needs both hashes writes a
# row's JSON once.
LINE = "number || ' ' || content || E'\\n'"

CONTENT_HASH = f"sha256(convert_to(coalesce(string_agg({LINE}, '' ORDER BY number), ''), 'UTF8'))"

DIGEST_BYTES = 16

# Without the number: a row that was moved elsewhere is recognised by its content.
DIGEST = f"substr(sha256(convert_to(content, 'UTF8')), 1, {DIGEST_BYTES})"

DIGESTS = f"coalesce(string_agg(int8send(number) || {DIGEST}, ''::bytea ORDER BY number), '')"

TABLE = "platform.audit_log"

ROWS = f"(SELECT number, id_, created, {CONTENT} AS content FROM {TABLE}) AS log"
