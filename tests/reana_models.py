"""Fills an empty database by reana-db's own models: run by a Python that has reana-db, not by the tests' own.

``python reana_models.py RUNS``; REANA_SQLALCHEMY_DATABASE_URI names the database. It prints, as JSON, the
value of each user's active token.
"""

import json
import sys
import uuid
from pathlib import Path

from alembic import command, config

import reana_db
from reana_db import models
from reana_db.database import Session, init_db

RUNS = int(sys.argv[1])


def fill() -> None:
    """Make the tables, mark them as migrated, and store rows of all kinds."""
    init_db()
    command.stamp(config.Config(str(Path(reana_db.__file__).with_name("alembic.ini"))), "head")
    models.Resource.initialise_default_resources()
    tokens = {}
    users = [add_user(number, tokens) for number in range(12)]
    for number in range(RUNS):
        add_run(users[number % 7], number, users)
    Session.commit()
    sys.stdout.write(json.dumps(tokens))


def add_user(number, tokens):
    """Store a user, with a token in one of the statuses."""
    user = models.User(id_=str(uuid.uuid4()), email=f"User{number}@example.org", full_name=f"User {number}")
    Session.add(user)
    Session.commit()
    kind = number % 4
    if kind == 1:
        user.request_access_token()
    elif kind != 3:
        user.access_token = f"value-{number}"
        Session.commit()
        if kind == 2:
            user.active_token.status = models.UserTokenStatus.revoked
        else:
            tokens[str(user.id_)] = f"value-{number}"
    user.log_action(models.AuditLogAction.grant_token, {"user_email": user.email, "message": "Token: value"})
    Session.commit()
    return user


def add_run(user, number, users):
    """Store a run in one of the statuses, every third of them a restart, with what belongs to it."""
    restart = number % 21 >= 14
    run = models.Workflow(
        str(uuid.uuid4()),
        "analysis",
        str(user.id_),
        {"workflow": {"type": "serial"}, "inputs": {"parameters": {"n": number}}},
        "serial",
        logs=f"log {number}\n",
        complexity=[(8, 4294967296)] if number % 2 else [],
        restart=restart,
    )
    Session.add(run)
    Session.commit()
    status = list(models.RunStatus)[number % 8]
    if status is not models.RunStatus.created:
        run.status = models.RunStatus.running
        run.status = status
    for step in range(number % 3):
        job = models.Job(
            workflow_uuid=run.id_, cmd=f"echo {step}", env_vars=json.dumps({"A": "b"}), logs="out"
        )
        Session.add(job)
        Session.commit()
        job.status = list(models.JobStatus)[(number + step) % 6]
        Session.add(
            models.JobCache(job_id=job.id_, parameters=f"p{step}", workspace_hash="h", result_path="/r")
        )
    if number % 9 == 0:
        session = models.InteractiveSession(name=f"s{number}", path=f"/s{number}", owner_id=run.owner_id)
        run.sessions.append(session)
    if number % 4 == 0:
        run.set_workspace_retention_rules([{"workspace_files": "**/*", "retention_days": number}])
    if number % 5 == 0 and hasattr(models, "UserWorkflow"):
        Session.add(models.UserWorkflow(workflow_id=run.id_, user_id=users[8].id_, message="look"))
        run.services.append(models.Service(name=f"d{number}", uri="tcp://d", type_=models.ServiceType.dask))
    Session.commit()


fill()
