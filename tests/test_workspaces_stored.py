"""The path of a workspace as the database has it: one form, whoever writes it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.models import Workflow
from tests.factories import make_run, make_user


@pytest.mark.parametrize("spelling", ["/srv/w", "/srv/w/", "//srv//w", "/srv/./w/.", "/srv/x/../w"])
def test_a_run_stores_the_canonical_path_of_its_workspace(session: Session, spelling: str) -> None:
    owner = make_user(session)
    created = make_run(session, owner, workspace_path=spelling)
    moved = make_run(session, owner, workspace_path="/elsewhere")
    moved.workspace_path = spelling
    session.commit()
    assert created.workspace_path == moved.workspace_path == "/srv/w"


@pytest.mark.parametrize("path", ["/", "w", "/srv/\0", "/" + "x" * 2048])
def test_a_run_refuses_what_cannot_be_a_workspace(session: Session, path: str) -> None:
    with pytest.raises(errors.InvalidIdentifier):
        Workflow(name="w", owner_id=make_user(session).id_, type_="serial", workspace_path=path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//",
        "w",
        "/w/",
        "//w",
        "/a//w",
        "/.",
        "/..",
        "/./w",
        "/../w",
        "/a/./w",
        "/a/../w",
        "/a/.",
        "/a/..",
    ],
)
def test_the_database_takes_no_other_form(session: Session, path: str) -> None:
    run = make_run(session, make_user(session))
    with pytest.raises(IntegrityError, match="ck_workflow_workspace_path_canonical"):
        session.execute(sa.update(Workflow).where(Workflow.id_ == run.id_).values(workspace_path=path))


@pytest.mark.parametrize("path", ["/w", "/...", "/.w/..w/w.", "/a b/'%\\/\n/é", "/w\n", "/\n"])
def test_the_database_takes_every_name(session: Session, path: str) -> None:
    assert make_run(session, make_user(session), workspace_path=path).workspace_path == path
