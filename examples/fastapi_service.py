"""A web service whose users list, start and stop their own runs, each by a token.

Run it with ``uvicorn examples.fastapi_service:app``, on a database with the schema and its roles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from platform_db import errors, get_engine, get_workflow, run_transaction, tokens, update_workflow_status
from platform_db.database.driver_errors import as_connection_error
from platform_db.health import probes
from platform_db.models import RunStatus, Workflow
from platform_db.query import find
from platform_db.tenancy import tenant_scope, tenant_sessionmaker
from platform_db.tokens import AuthenticatedToken

app = FastAPI(title="Runs")
logger = logging.getLogger(__name__)
bearer = HTTPBearer(auto_error=False)


# [who asks]
def authenticated(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> AuthenticatedToken:
    """Return the token of the request; without one, or with a wrong one, the answer is 401."""
    value = credentials.credentials if credentials else ""
    return run_transaction(lambda session: tokens.authenticate(session, value))


Token = Annotated[AuthenticatedToken, Depends(authenticated)]


# [sessions]
def tenant_session(token: Token) -> Iterator[Session]:
    """Give a session that sees the user's rows alone."""
    with tenant_scope(get_engine(), token.user_id) as session:
        yield session


def tenant_transaction(token: Token) -> Callable[[Callable[[Session], Any]], Any]:
    """Give what runs work in such a session, and runs it again after a deadlock."""
    token.require(["write"])
    return partial(run_transaction, factory=tenant_sessionmaker(get_engine(), token.user_id))


# scope="function": the transaction ends before the answer is sent, not after it.
Reading = Annotated[Session, Depends(tenant_session, scope="function")]
Writing = Annotated[Callable[[Callable[[Session], Any]], Any], Depends(tenant_transaction)]


# [runs]
class NewRun(BaseModel):
    """What a user says of a run that is to start."""

    name: str = Field(min_length=1, max_length=255)
    specification: dict[str, Any]


class Run(BaseModel):
    """What a user sees of a run."""

    id: UUID
    name: str
    status: RunStatus
    created: datetime

    @classmethod
    def of(cls, run: Workflow) -> Run:
        """Return what is seen of a stored run."""
        return cls(id=run.id_, name=run.get_full_workflow_name(), status=run.status, created=run.created)


class RunPage(BaseModel):
    """A page of runs, and the cursors of the pages after and before it; null where there is none."""

    runs: list[Run]
    cursor: str | None
    previous: str | None


@app.get("/runs")
def list_runs(
    session: Reading,
    status: Annotated[list[str] | None, Query()] = None,
    labels: str = "",
    sort: str = "-created",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> RunPage:
    """Return the user's runs, newest first."""
    wanted = {"status": {"$in": status}} if status else {}
    page = find(session, Workflow, wanted, labels=labels, sort=sort, limit=limit, cursor=cursor)
    return RunPage(runs=[Run.of(run) for run in page.rows], cursor=page.cursor, previous=page.previous)


@app.get("/runs/{run}")
def show_run(run: str, session: Reading, token: Token) -> Run:
    """Return a run by its id or its name, such as ``analysis.2``."""
    return Run.of(get_workflow(session, run, token.user_id))


@app.post("/runs", status_code=201)
def start_run(new: NewRun, token: Token, transaction: Writing) -> Run:
    """Store a run, queued."""

    def work(session: Session) -> Run:
        run = Workflow(owner_id=token.user_id, type_="serial", status=RunStatus.queued, **new.model_dump())
        session.add(run)
        session.flush()
        return Run.of(run)

    return transaction(work)


@app.post("/runs/{run}/stop")
def stop_run(run: str, token: Token, transaction: Writing) -> Run:
    """Stop a run."""

    def work(session: Session) -> Run:
        stored = get_workflow(session, run, token.user_id)
        update_workflow_status(session, stored, RunStatus.stopped, message="its owner asked for it")
        return Run.of(stored)

    return transaction(work)


# [errors]
@app.exception_handler(errors.PlatformDBError)
def answer_error(request: Request, error: errors.PlatformDBError) -> JSONResponse:
    """Answer with the error's own status. What is the operators' business goes to the log alone."""
    content = {"error": error.code, "message": str(error), "hint": error.hint}
    headers = {}
    if isinstance(error, errors.AuthenticationError):
        content["error"] = errors.AuthenticationError.code  # Why, the outside does not learn.
        headers = {"WWW-Authenticate": "Bearer"}
    elif error.http_status >= 500:
        logger.error("%s %s: %s (%s)", request.method, request.url.path, error, error.hint)
        content = {"error": error.code, "message": "the service cannot answer now", "hint": "try again later"}
    return JSONResponse(content, error.http_status, headers)


@app.exception_handler(sa.exc.DBAPIError)
def answer_lost_connection(request: Request, error: sa.exc.DBAPIError) -> JSONResponse:
    """Answer 503 where the database cannot be reached; any other error of the driver is a bug."""
    own = as_connection_error(error)
    if own is None:
        raise error
    return answer_error(request, own)


# [readiness]
# /probes/healthz: this process lives. /probes/readyz: it can serve, which takes the schema of this code.
app.mount("/probes", probes.asgi)
