"""Revisions of the tests' own, and code of another age: what a release before or after this one knows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platform_db.schema.status import FOLDERS

TEMPLATE = '''"""{title}."""

from alembic import op

from platform_db.migrations import steps

revision = "{revision}"
down_revision = "{down_revision}"
branch_labels = None
depends_on = None
phase = "{phase}"
locks = {{}}


def upgrade() -> None:
    {body}


def downgrade() -> None:
    pass
'''


def write_revision(folder: Path, offset: int, phase: str, body: str) -> str:
    """Write a revision that is so many after the newest one, and return its number."""
    newest = int(max(path.name[:4] for path in FOLDERS[0].glob("0*.py")))
    revision = f"{newest + offset:04d}"
    text = TEMPLATE.format(
        title=f"Step {offset}",
        revision=revision,
        down_revision=f"{newest + offset - 1:04d}",
        phase=phase,
        body=body,
    )
    (folder / f"{revision}_step.py").write_text(text, encoding="utf-8")
    return revision


@contextmanager
def code_with(*folders: Path) -> Iterator[None]:
    """Act as code that has the revisions in these folders."""
    own = list(FOLDERS)
    FOLDERS[:] = folders
    try:
        yield
    finally:
        FOLDERS[:] = own


def copy_up_to(revision: str, folder: Path) -> Path:
    """Copy the revisions that code had whose newest one was ``revision``."""
    for file in FOLDERS[0].glob("[0-9]*.py"):
        if file.name[:4] <= revision:
            shutil.copy(file, folder)
    return folder
