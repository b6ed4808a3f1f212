"""${message}

Motive: why the schema changes, and who asked for it.
Lock: which lock each statement takes on which table (https://www.postgresql.org/docs/current/explicit-locking.html).
Duration: how it grows with the rows. What rewrites or scans a large table goes in steps: add a constraint
    NOT VALID and validate it in a revision of its own; create an index CONCURRENTLY in an autocommit block.
Recovery: what to do when it stops half-way. A revision is one transaction, so mostly: run it again.

A released revision never changes, and never imports today's models.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}
"""

from __future__ import annotations

from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Apply the change."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Take the change back, with data in the tables."""
    ${downgrades if downgrades else "pass"}
