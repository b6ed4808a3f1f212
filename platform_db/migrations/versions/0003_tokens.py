"""Let tokens be used without waiting, and values be unique under every key.

Motive: refreshing when a token was last used must never wait for anybody, so every token has its row in
``user_token_last_use`` from the start. While two secret keys are in use, one value has two digests: a trigger
refuses the value under either. Another refuses to replace the value of a token that was granted meanwhile:
the first one was handed out, and nobody would have revoked it. Two indexes tell which keys are in use.
Lock: ACCESS EXCLUSIVE on ``user_token``, ``user_token_last_use`` and ``interactive_session``.
Duration: a few seconds per million tokens, for the rows that are added.
Recovery: run it again; it is one transaction.

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-21
"""

from __future__ import annotations

from alembic import op

from platform_db.migrations.sql import drop_created, run_scripts

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, the indexes, the triggers and the missing rows."""
    run_scripts(revision)


def downgrade() -> None:
    """Drop them again, and the rows of tokens that were never used."""
    for table, trigger in (
        ("interactive_session", "refuse_known_interactive_session_secret"),
        ("user_token", "refuse_known_user_token_token"),
        ("user_token", "keep_user_token_value"),
        ("user_token", "add_user_token_last_use"),
    ):
        op.execute(f"DROP TRIGGER {trigger} ON platform.{table}")
    drop_created(revision)
    op.execute("DROP INDEX platform.ix_interactive_session_key_id")
    op.execute("DROP INDEX platform.ix_user_token_key_id")
    op.execute("DELETE FROM platform.user_token_last_use WHERE last_used_at IS NULL")
    op.execute("ALTER TABLE platform.user_token_last_use ALTER COLUMN last_used_at SET NOT NULL")
    op.execute("ALTER TABLE platform.user_token DROP COLUMN other_token_digests")
    op.execute("ALTER TABLE platform.interactive_session DROP COLUMN other_secret_digests")
