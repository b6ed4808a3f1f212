"""Which revisions a database still needs, and which of them may run in a phase of an upgrade."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING

from platform_db import errors
from platform_db.schema.status import SchemaState, SchemaStatus, phase_of, revisions

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script

PHASES = ("pre", "post")


def pending_scripts(
    found: SchemaStatus, config: Config, revision: str = "head", phase: str | None = None
) -> list[Script]:
    """Return the revisions that lead from the status of a database to ``revision``, the oldest first.

    :param phase: only those of this phase. A database without a schema serves no old release: there, ``pre``
        has all of them.
    :raises errors.SchemaAhead: the database is newer than the code, and does not serve it.
    :raises errors.Refused: a revision of the other phase comes between.
    """
    from alembic.script import ScriptDirectory

    if found.state is SchemaState.ahead:
        found.require_usable()
        return []
    directory = ScriptDirectory.from_config(config)
    scripts = list(directory.iterate_revisions(revision, found.revision or "base", implicit_base=True))[::-1]
    if phase is None or (phase == "pre" and found.state is SchemaState.never_migrated):
        return scripts
    chosen = list(takewhile(lambda script: phase_of(script.revision) == phase, scripts))
    rest = [script.revision for script in scripts[len(chosen) :]]
    pre = [one for one in rest if phase_of(one) == "pre"]
    if pre and phase == "pre":
        raise errors.Refused(
            f"the new release needs revision {pre[-1]}, which follows {rest[0]}, a post revision",
            hint="where no release before that one's runs, run: platform-db alembic upgrade --phase post; "
            "else stop the old release, and run: platform-db alembic upgrade",
        )
    if pre and not chosen:
        raise errors.Refused(
            f"revision {pre[0]} is a pre revision, and has not run",
            hint="run: platform-db alembic upgrade --phase pre; then replace the old release by the new one",
        )
    return chosen


def absolute(found: SchemaStatus, revision: str) -> str:
    """Return the revision that is so many steps, such as ``-1``, below the database's; others as they are."""
    if not re.fullmatch(r"-\d+", revision):
        return revision
    line = ["base", *revisions()]
    current = found.revision or "base"
    steps = int(revision)
    below = line.index(current) + steps if current in line else -1
    return line[below] if below >= 0 else revision
