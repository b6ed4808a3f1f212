"""The public functions, each called once on one world: a list that two databases can be compared by.

The calls come in the order of a platform's life, and later ones find what earlier ones stored.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import (
    audit,
    events,
    jobs,
    leases,
    lifecycle,
    logs,
    provenance,
    query,
    queue,
    quota,
    retention,
    tasks,
    tokens,
    users,
    workflows,
)
from platform_db.database.session import PlatformSession
from platform_db.health import check, deep_check, rows, stats, tables
from platform_db.integrations import covalent
from platform_db.leases import outcomes
from platform_db.leases.tasks import lease
from platform_db.lifecycle import extra_transitions
from platform_db.metrics import sources
from platform_db.models import (
    Base,
    InteractiveSession,
    Job,
    Service,
    ServiceLog,
    User,
    Workflow,
    WorkspaceRetentionRule,
)
from platform_db.quota import report
from platform_db.retention.workspaces import apply_retention_rules
from platform_db.schema import agreement
from platform_db.tenancy import in_tenant_scope, roles, tenant_scope, tenant_sessionmaker
from platform_db.transfer import analyzing
from tests.test_covalent import make_manifest

Answer = Any
World = SimpleNamespace
CALLS: dict[str, Callable[[World, orm.Session], Answer]] = {}
"""By name. A call gets the world and a session, whose transaction is committed after it."""


def call(function: Callable[[World, orm.Session], Answer]) -> Callable[[World, orm.Session], Answer]:
    CALLS[function.__name__] = function
    return function


def run_calls(engine: sa.Engine) -> dict[str, Answer]:
    """Return what each call answers, or the error that it raised, with ids and times made comparable."""
    factory = orm.sessionmaker(engine, class_=PlatformSession)
    world, plain, answers = SimpleNamespace(engine=engine, factory=factory), Plain(), {}
    for name, function in CALLS.items():
        try:
            with factory() as session, session.begin():
                answers[name] = plain(function(world, session))
        except Exception as error:
            answers[name] = plain((type(error).__name__, str(error).partition("\n")[0]))
    return answers


class Plain:
    """Makes answers comparable: an id becomes its number of appearance, a time ``at``."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Base):
            loaded = sa.inspect(value).dict
            return {type(value).__name__: self(dict(sorted(loaded.items())))}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        if isinstance(value, Mapping):
            return {
                _key(self(key)): self(each) for key, each in value.items() if not str(key).startswith("_sa")
            }
        if isinstance(value, sa.Row):
            return self(dict(value._mapping))
        if hasattr(value, "_asdict"):
            return self(value._asdict())
        if isinstance(value, (set, frozenset)):
            return sorted(map(str, map(self, value)))
        if isinstance(value, (bytes, memoryview)):
            data = bytes(value)
            return self(data.decode()) if data.isascii() else f"{len(data)} bytes"
        if isinstance(value, enum.Enum):
            return value.value
        if isinstance(value, Exception):
            return self((type(value).__name__, str(value)))
        if isinstance(value, (datetime, date)):
            return "at"
        if isinstance(value, (uuid.UUID, str)):
            return self.text(str(value))
        if isinstance(value, type):
            return value.__name__
        if isinstance(value, Iterable):
            return [self(each) for each in value]
        return value

    def text(self, text: str) -> str:
        text = _SHARD.sub(r'\1"', _TIME.sub("at", _SECRET.sub("secret", text)))
        return _ID.sub(lambda found: self.ids.setdefault(found[0], f"#{len(self.ids)}"), text)


_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{40}\b|\b[0-9a-f]{64}\b"
)
_SHARD = re.compile(r'("[a-z_]+)_\d{6}"')
_SECRET = re.compile(r"pdb_[a-z][0-9A-Za-z]{49}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d(:?\d\d)?|Z)?")


def _key(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key


def _page(page: Any) -> Any:
    """Return a page without its cursor, which holds numbers of the server's."""
    return page.rows, page.cursor is None


# -- users


@call
def create_user(w: World, s: orm.Session) -> Answer:
    w.ada = users.create_user(s, "ada@example.org").id_
    w.bob = users.create_user(s, "bob@example.org", full_name="Bob").id_
    w.eve = users.create_user(s, "eve@example.org").id_
    return s.scalars(sa.select(User.email).order_by(User.email)).all()


@call
def create_user_twice(w: World, s: orm.Session) -> Answer:
    return users.create_user(s, "ADA@example.org")


@call
def find_user(w: World, s: orm.Session) -> Answer:
    return users.find_user(s, "ada@example.org"), users.find_user(s, w.bob)


@call
def list_users(w: World, s: orm.Session) -> Answer:
    return _page(users.list_users(s, limit=2))


@call
def iterate_users(w: World, s: orm.Session) -> Answer:
    return [user.email for user in users.iterate_users(s)]


# -- tokens


@call
def request_token(w: World, s: orm.Session) -> Answer:
    return tokens.request(s, w.ada).status


@call
def grant_token(w: World, s: orm.Session) -> Answer:
    w.token = tokens.grant(s, w.ada)
    return w.token[:5]


@call
def grant_token_twice(w: World, s: orm.Session) -> Answer:
    return tokens.grant(s, w.ada)


@call
def issue_token(w: World, s: orm.Session) -> Answer:
    w.personal = tokens.issue(s, w.ada, type_="personal", name="laptop", scopes=["read"])
    w.short = tokens.issue(s, w.bob, type_="personal", name="short", expires_in=timedelta(microseconds=1))
    return True


@call
def issue_token_of_another_name_with_its_value(w: World, s: orm.Session) -> Answer:
    return tokens.issue(s, w.bob, type_="personal", name="copy", value=w.personal)


@call
def authenticate(w: World, s: orm.Session) -> Answer:
    found = tokens.authenticate(s, w.token)
    return found, found.user_id == w.ada, tokens.authenticate(s, w.personal, scopes=["read"])


@call
def authenticate_without_scope(w: World, s: orm.Session) -> Answer:
    return tokens.authenticate(s, w.personal, scopes=["write"])


@call
def authenticate_expired(w: World, s: orm.Session) -> Answer:
    return tokens.authenticate(s, w.short)


@call
def find_token(w: World, s: orm.Session) -> Answer:
    return tokens.find_token(s, w.token).status


@call
def list_tokens(w: World, s: orm.Session) -> Answer:
    page = tokens.list_tokens(s, w.ada)
    return [(token.name, token.status, token.last_used_at) for token in page.rows]


@call
def revoke_token(w: World, s: orm.Session) -> Answer:
    token = tokens.find_token(s, w.personal)
    return tokens.revoke(s, token, reason="lost"), tokens.revoke(s, token.id_)


@call
def authenticate_revoked(w: World, s: orm.Session) -> Answer:
    return tokens.authenticate(s, w.personal)


@call
def revoke_expired_tokens(w: World, s: orm.Session) -> Answer:
    return tokens.revoke_expired(w.factory)


@call
def purge_tokens(w: World, s: orm.Session) -> Answer:
    return tokens.purge(w.factory, revoked_for=timedelta(0))


@call
def key_uses(w: World, s: orm.Session) -> Answer:
    return len(tokens.key_uses(s))


@call
def report_keys(w: World, s: orm.Session) -> Answer:
    return tokens.report_keys(s).require_keys()


@call
def rotate_keys(w: World, s: orm.Session) -> Answer:
    return tokens.rotate(w.factory)


# -- runs


@call
def create_workflow(w: World, s: orm.Session) -> Answer:
    made = workflows.create_workflow(
        s, w.ada, "analysis", {"steps": []}, type_="serial", labels={"team": "top"}, workspace_path="/w/ada"
    )
    w.run = made.id_
    return made


@call
def create_workflow_again(w: World, s: orm.Session) -> Answer:
    first = workflows.create_workflow(s, w.ada, "analysis", {}, type_="serial", idempotency_key="k")
    again = workflows.create_workflow(s, w.ada, "analysis", {}, type_="serial", idempotency_key="k")
    return first, again, first.id_ == again.id_


@call
def create_workflows(w: World, s: orm.Session) -> Answer:
    made = workflows.create_workflows(
        s,
        [
            {"owner": owner, "name": name, "specification": {}, "type_": "serial"}
            for owner, name in ((w.ada, "many"), (w.bob, "many"), (w.ada, "many"))
        ],
    )
    w.many = [one.id_ for one in made]
    return made


@call
def create_workflow_by_orm(w: World, s: orm.Session) -> Answer:
    run = Workflow(name="orm", owner_id=w.bob, type_="serial", specification={}, logs="begun\n")
    s.add(run)
    s.flush()
    w.bobs = run.id_
    return run.run_number, run.status, run.revision


@call
def create_workflow_of_nobody(w: World, s: orm.Session) -> Answer:
    return workflows.create_workflow(s, uuid.UUID(int=9), "none", {}, type_="serial")


@call
def get_by_id_alone(w: World, s: orm.Session) -> Answer:
    return s.get(Workflow, w.run).name


@call
def get_workflow(w: World, s: orm.Session) -> Answer:
    return workflows.get_workflow(s, w.run, w.ada).name, workflows.get_workflow(s, "analysis.2", w.ada).name


@call
def find_workflow(w: World, s: orm.Session) -> Answer:
    return workflows.find_workflow(s, str(w.run)[:23]).name, workflows.find_workflow(
        s, "analysis", w.ada
    ).run_number


@call
def list_workflows(w: World, s: orm.Session) -> Answer:
    page = workflows.list_workflows(s, w.ada, limit=2)
    more = workflows.list_workflows(s, w.ada, limit=2, cursor=page.cursor)
    everyone = workflows.list_workflows(s, None, statuses=["created"])
    return [[run.name for run in each.rows] for each in (page, more, everyone)]


@call
def count_by_status(w: World, s: orm.Session) -> Answer:
    return workflows.count_by_status(s, w.ada)


@call
def overview(w: World, s: orm.Session) -> Answer:
    return workflows.overview(s, w.ada)


@call
def update_specification(w: World, s: orm.Session) -> Answer:
    return workflows.update_specification(s, w.run, {"steps": [1]}, labels={"team": "up"}, priority=5)


@call
def list_versions(w: World, s: orm.Session) -> Answer:
    return (
        workflows.list_versions(s, w.run),
        workflows.get_version(s, w.run, 1),
        workflows.get_version(s, w.run),
    )


@call
def share_workflow(w: World, s: orm.Session) -> Answer:
    run = s.get(Workflow, w.run)
    return workflows.share_workflow(
        s, run, w.bob, message="look", valid_until=datetime(2100, 1, 1, tzinfo=timezone.utc)
    )


@call
def list_shared(w: World, s: orm.Session) -> Answer:
    return [run.name for run in workflows.list_shared(s, w.bob).rows]


@call
def get_shared_workflow(w: World, s: orm.Session) -> Answer:
    return workflows.get_workflow(s, w.run, w.bob, include_shared=True).name


@call
def unshare_workflow(w: World, s: orm.Session) -> Answer:
    return workflows.unshare_workflow(s, s.get(Workflow, w.run), w.bob)


# -- statuses


@call
def transition(w: World, s: orm.Session) -> Answer:
    return lifecycle.transition(s, s.get(Workflow, w.run), "queued", reason="submitted")


@call
def transition_by_key(w: World, s: orm.Session) -> Answer:
    return lifecycle.transition(s, (w.ada, w.run), "pending", model=Workflow, expected_status="queued")


@call
def transition_by_id(w: World, s: orm.Session) -> Answer:
    return lifecycle.transition(s, w.run, "running", model=Workflow, expected_revision=3)


@call
def transition_refused(w: World, s: orm.Session) -> Answer:
    return lifecycle.transition(s, w.run, "created", model=Workflow)


@call
def transition_by_orm(w: World, s: orm.Session) -> Answer:
    run = s.get(Workflow, w.many[0])
    run.status = "queued"
    s.flush()
    return run.revision


@call
def transition_by_orm_refused(w: World, s: orm.Session) -> Answer:
    s.get(Workflow, w.many[0]).status = "created"
    s.flush()


@call
def transition_many(w: World, s: orm.Session) -> Answer:
    return [
        (result.changed, result.status, result.revision, result.refusal)
        for result in lifecycle.transition_many(s, w.many, "queued", model=Workflow, reason="all")
    ]


@call
def transition_many_by_key(w: World, s: orm.Session) -> Answer:
    keys = [(w.ada, w.many[0]), (w.bob, w.many[1]), (w.ada, w.many[2])]
    return [r.status for r in lifecycle.transition_many(s, keys, "pending", model=Workflow, reason="again")]


@call
def transition_many_of_one_owner(w: World, s: orm.Session) -> Answer:
    keys = [(w.ada, w.many[0]), (w.ada, w.many[2])]
    return [
        r.status
        for r in lifecycle.transition_many(s, keys, "queued", model=Workflow, expected_status="pending")
    ]


@call
def update_workflow_status(w: World, s: orm.Session) -> Answer:
    return workflows.update_workflow_status(s, w.many[2], "pending", new_logs="new\n", message="note")


@call
def set_actor(w: World, s: orm.Session) -> Answer:
    lifecycle.set_actor(s, "ada", "by hand")
    lifecycle.transition(s, w.bobs, "queued", model=Workflow)
    return [(e.actor, e.reason) for e in lifecycle.whole_history(s, s.get(Workflow, w.bobs))]


@call
def override_guard(w: World, s: orm.Session) -> Answer:
    run = s.get(Workflow, w.bobs)
    with lifecycle.override_guard(s, reason="a repair"):
        lifecycle.transition(s, run, "finished")
    with lifecycle.override_guard(s, reason="back"):
        lifecycle.transition(s, run, "queued")
    return [(e.to_status, e.reason, e.overridden) for e in lifecycle.whole_history(s, run)]


@call
def allow_transition(w: World, s: orm.Session) -> Answer:
    return extra_transitions.allow_transition(s, "workflow", "queued", "finished", reason="instant")


@call
def list_extra_transitions(w: World, s: orm.Session) -> Answer:
    return [(row.entity, row.from_status) for row in extra_transitions.list_extra_transitions(s)]


@call
def extra_transition(w: World, s: orm.Session) -> Answer:
    lifecycle.transition(s, w.bobs, "finished", model=Workflow)
    return [e.extra for e in lifecycle.whole_history(s, s.get(Workflow, w.bobs))]


@call
def forbid_transition(w: World, s: orm.Session) -> Answer:
    return extra_transitions.forbid_transition(s, "workflow", "queued", "finished")


@call
def restart(w: World, s: orm.Session) -> Answer:
    again = lifecycle.restart(s, w.bobs, reason="once more")
    w.again = again.id_
    return again.run_number, again.status


@call
def add_note(w: World, s: orm.Session) -> Answer:
    return lifecycle.add_note(s, s.get(Workflow, w.run), "topic", "message", {"a": 1}).topic


@call
def history(w: World, s: orm.Session) -> Answer:
    run = s.get(Workflow, w.run)
    page = lifecycle.history(s, run, limit=2)
    later = lifecycle.history(s, run, limit=5, cursor=page.cursor)
    return [(e.kind, e.to_status, e.reason, e.topic) for e in (*page.rows, *later.rows)]


@call
def importing(w: World, s: orm.Session) -> Answer:
    with lifecycle.importing(s):
        old = datetime(2020, 1, 1, tzinfo=timezone.utc)
        run = Workflow(
            name="old",
            owner_id=w.ada,
            type_="serial",
            specification={},
            status="finished",
            created=old,
            updated=old,
        )
        s.add(run)
        s.flush()
    return run.created.year, run.run_number


# -- jobs


@call
def create_jobs(w: World, s: orm.Session) -> Answer:
    made = [Job(owner_id=w.ada, workflow_id=w.run, job_name=name) for name in ("fit", "plot", "sum")]
    s.add_all(made)
    s.flush()
    w.jobs = [job.id_ for job in made]
    return [(job.job_name, job.status) for job in made]


@call
def create_job_of_its_run_alone(w: World, s: orm.Session) -> Answer:
    job = Job(workflow_id=w.bobs)
    s.add(job)
    s.flush()
    return job.owner_id == w.bob


@call
def add_dependencies(w: World, s: orm.Session) -> Answer:
    fit, plot, sum_ = w.jobs
    return workflows.add_dependencies(
        s, w.run, [workflows.Dependency(fit, plot), workflows.Dependency(plot, sum_)]
    )


@call
def add_a_cycle(w: World, s: orm.Session) -> Answer:
    return workflows.add_dependencies(s, w.run, [workflows.Dependency(w.jobs[2], w.jobs[0])])


@call
def graph(w: World, s: orm.Session) -> Answer:
    found = workflows.graph(s, w.run)
    return [node.name for node in found.nodes], len(found.edges)


@call
def list_jobs(w: World, s: orm.Session) -> Answer:
    return [job.job_name for job in jobs.list_jobs(s, s.get(Workflow, w.run), limit=2).rows]


@call
def set_phase(w: World, s: orm.Session) -> Answer:
    job = s.get(Job, w.jobs[0])
    lifecycle.set_phase(s, job, "pulling")
    lifecycle.set_phase(s, job, "starting", expected_phase="pulling")
    return [(e.topic, e.message) for e in lifecycle.whole_history(s, job)]


@call
def job_transitions(w: World, s: orm.Session) -> Answer:
    results = []
    for status in ("queued", "running"):
        results += lifecycle.transition_many(s, w.jobs, status, model=Job)
    return [(result.status, result.revision) for result in results]


@call
def progress(w: World, s: orm.Session) -> Answer:
    return workflows.progress(s, w.run), workflows.progress_many(s, [w.run, w.bobs])


@call
def store_cached_result(w: World, s: orm.Session) -> Answer:
    first = jobs.store_result(s, s.get(Job, w.jobs[0]), "p", "hash", "/r/1")
    return (
        first,
        jobs.store_result(s, w.jobs[1], "p", "hash", "/r/2"),
        jobs.store_result(s, w.jobs[2], "q", "h", "/3"),
    )


@call
def find_cached_result(w: World, s: orm.Session) -> Answer:
    return jobs.find_cached_result(s, w.ada, "p", "hash"), jobs.find_cached_result(s, w.ada, "none", "hash")


@call
def evict_cached_results(w: World, s: orm.Session) -> Answer:
    return jobs.evict_cached_results(s, w.ada, 1)


@call
def set_result(w: World, s: orm.Session) -> Answer:
    workflows.set_result(s, s.get(Workflow, w.run), {"answer": 42})
    return workflows.set_result(s, w.jobs[0], b"\0\1\2", name="bytes", model=Job).as_dict()


@call
def get_result(w: World, s: orm.Session) -> Answer:
    return (
        workflows.get_result(s, w.run, model=Workflow).value,
        workflows.get_result(s, w.jobs[0], "bytes", model=Job).value,
    )


@call
def delete_result(w: World, s: orm.Session) -> Answer:
    return workflows.delete_result(s, w.jobs[0], "bytes", model=Job), workflows.delete_result(
        s, w.run, "no", model=Workflow
    )


# -- logs


@call
def append_log(w: World, s: orm.Session) -> Answer:
    run = s.get(Workflow, w.run)
    return logs.append_log(s, run, "one\n"), logs.append_log(s, w.run, "two\n", model=Workflow)


@call
def append_log_of_a_job(w: World, s: orm.Session) -> Answer:
    return logs.append_log(s, w.jobs[0], "job\n", model=Job), logs.append_log(
        s, (w.ada, w.jobs[0]), "x\n", model=Job
    )


@call
def append_log_beyond_the_limit(w: World, s: orm.Session) -> Answer:
    return logs.append_log(s, w.jobs[1], "a" * 100, model=Job, limit=40)


@call
def read_log(w: World, s: orm.Session) -> Answer:
    return logs.read_log(s, w.run, model=Workflow), logs.read_log(s, w.run, 2, 6, model=Workflow)


@call
def tail_log(w: World, s: orm.Session) -> Answer:
    return logs.tail_log(s, w.run, 1, model=Workflow), logs.read_log_tail(s, w.jobs[0], 1, model=Job)


@call
def read_new_log(w: World, s: orm.Session) -> Answer:
    first = logs.read_new_log(s, w.run, model=Workflow)
    logs.append_log(s, w.run, "three\n", model=Workflow)
    later = logs.read_new_log(s, w.run, first.cursor, model=Workflow)
    again = logs.read_new_log(s, w.run, later.cursor, model=Workflow)
    return first.data, later.data, again.data, first.drained


@call
def stream_log(w: World, s: orm.Session) -> Answer:
    return list(logs.stream_log(w.factory, w.run, model=Workflow))


@call
def follow_log(w: World, s: orm.Session) -> Answer:
    lifecycle.transition_many(s, [w.many[1]], "stopped", model=Workflow)
    s.commit()
    return "".join(logs.follow_log(w.factory, w.many[1], model=Workflow, poll_seconds=0.01))


@call
def replace_log(w: World, s: orm.Session) -> Answer:
    return logs.replace_log(s, w.jobs[0], "other\n", model=Job), logs.read_log(s, w.jobs[0], model=Job)


# -- interactive sessions, services


@call
def create_session(w: World, s: orm.Session) -> Answer:
    made = InteractiveSession(name="notebook", path="/n", owner_id=w.ada, status="created")
    s.add(made)
    s.flush()
    w.session = made.id_
    return made.status


@call
def issue_session_secret(w: World, s: orm.Session) -> Answer:
    w.secret = tokens.issue_interactive_session_secret(s, s.get(InteractiveSession, w.session))
    return w.secret[:5]


@call
def find_session_by_secret(w: World, s: orm.Session) -> Answer:
    return tokens.find_interactive_session(s, w.secret).name


@call
def a_secret_is_used_once(w: World, s: orm.Session) -> Answer:
    s.add(InteractiveSession(name="b", path="/b", owner_id=w.bob, status="created", secret=w.secret))
    s.flush()


@call
def create_service(w: World, s: orm.Session) -> Answer:
    made = Service(name="dask", owner_id=w.bob, status="created")
    s.add(made)
    s.flush()
    s.add(ServiceLog(owner_id=w.bob, service_id=made.id_, data=b"line\n"))
    s.flush()
    w.service = made.id_
    return lifecycle.transition(s, made, "running")


# -- leases and the queue


@call
def enqueue(w: World, s: orm.Session) -> Answer:
    made = workflows.create_workflows(
        s,
        [
            {"owner": owner, "name": "queued", "specification": {}, "type_": "serial", "status": "queued"}
            for owner in (w.ada, w.ada, w.bob, w.eve)
        ],
    )
    w.queued = [one.id_ for one in made]
    return len(made)


@call
def set_limits(w: World, s: orm.Session) -> Answer:
    return queue.set_limits(s, w.eve, concurrent_runs=5, starts_per_minute=10)


@call
def explain(w: World, s: orm.Session) -> Answer:
    found = queue.explain(s, w.queued[0])
    return found.is_next, [obstacle.text for obstacle in found.obstacles]


@call
def claim(w: World, s: orm.Session) -> Answer:
    w.claims = queue.claim(s, "n1/1", limit=20)
    w.claims.sort(
        key=lambda one: (one.name, one.run_number, str(one.owner_id != w.ada), str(one.owner_id != w.bob))
    )
    return Counter((one.name, one.run_number, str(one.owner_id)) for one in w.claims)


@call
def claim_jobs(w: World, s: orm.Session) -> Answer:
    s.add(Job(owner_id=w.ada, workflow_id=w.run, status="queued", job_name="claimed"))
    s.flush()
    return [one.model for one in queue.claim(s, "n1/2", limit=5, model=Job)]


@call
def heartbeat(w: World, s: orm.Session) -> Answer:
    return len(leases.heartbeat(s, w.claims, "n1/1")), len(
        leases.heartbeat(s, [s.get(Workflow, w.run)], "n1/9")
    )


@call
def heartbeat_of_another(w: World, s: orm.Session) -> Answer:
    return len(leases.heartbeat(s, [s.get(Workflow, w.run)], "n2/9"))


@call
def count_alive(w: World, s: orm.Session) -> Answer:
    return leases.count_alive(s), leases.count_alive(s, "n1")


@call
def queue_status(w: World, s: orm.Session) -> Answer:
    found = queue.queue_status(s)
    return sorted((str(one.as_dict()) for one in found), key=len), len(queue.queue_status(s, w.ada))


@call
def release_lease(w: World, s: orm.Session) -> Answer:
    return leases.release(s, [s.get(Workflow, w.run)], "n1/9")


@call
def hand_back(w: World, s: orm.Session) -> Answer:
    return len(queue.release(s, w.claims[:1], "n1/1"))


@call
def start_and_finish(w: World, s: orm.Session) -> Answer:
    lifecycle.transition(s, w.claims[1], "running")
    return queue.finish(s, w.claims[1], "finished", "n1/1")


@call
def requeue(w: World, s: orm.Session) -> Answer:
    lifecycle.transition(s, w.claims[2], "running")
    return queue.requeue(s, w.claims[2], reason="node lost", worker="n1/1", delay=0).run_number


@call
def recover(w: World, s: orm.Session) -> Answer:
    return leases.recover(s, 0)


@call
def recover_all(w: World, s: orm.Session) -> Answer:
    return leases.recover_all(w.factory, 0)


@call
def recover_owned_by(w: World, s: orm.Session) -> Answer:
    leases.heartbeat(s, [s.get(Job, w.jobs[2])], "n7/1")
    return leases.recover_owned_by(s, "n7")


@call
def end_lost_calls(w: World, s: orm.Session) -> Answer:
    return leases.end_lost_calls(s, 0)


@call
def task_lease(w: World, s: orm.Session) -> Answer:
    with lease(w.factory, "a job") as held:
        return held.check()


@call
def record_outcome(w: World, s: orm.Session) -> Answer:
    outcomes.record_outcome(s, "a job", 0, 1.5)
    return [outcome.name for outcome in outcomes.read_outcomes(s.connection())]


# -- quotas


@call
def set_limit(w: World, s: orm.Session) -> Answer:
    return quota.set_limit(s, w.ada, "cpu", 10**9), quota.set_limit(s, w.ada, "disk", 10**9)


@call
def reserve(w: World, s: orm.Session) -> Answer:
    first, second = quota.reserve(s, w.ada, "disk", 100), quota.reserve(s, w.ada, "disk", 50)
    quota.commit_reservation(s, first, 80)
    return quota.release(s, second)


@call
def commit_reservation_by_id(w: World, s: orm.Session) -> Answer:
    return quota.commit_reservation(s, quota.reserve(s, w.ada, "disk", 10).id_)


@call
def reserve_too_much(w: World, s: orm.Session) -> Answer:
    return quota.reserve(s, w.ada, "disk", 10**10)


@call
def release_expired_reservations(w: World, s: orm.Session) -> Answer:
    with w.factory() as own, own.begin():
        quota.reserve(own, w.ada, "disk", 7, ttl=0.001)
    time.sleep(0.05)
    return quota.release_expired_reservations(w.factory)


@call
def get_default_quota_resource(w: World, s: orm.Session) -> Answer:
    return quota.get_default_quota_resource(s, "cpu").name


@call
def initialise_default_periods(w: World, s: orm.Session) -> Answer:
    return len(quota.initialise_default_periods(s, quota.get_default_quota_resource(s, "cpu")))


@call
def store_workflow_disk_quota(w: World, s: orm.Session) -> Answer:
    return quota.store_workflow_disk_quota(s, w.run, 1000).quota_used


@call
def update_users_disk_quota(w: World, s: orm.Session) -> Answer:
    quota.update_users_disk_quota(s, w.ada, 1000)
    quota.update_users_disk_quota(s, w.ada)
    return quota.update_users_disk_quota(s)


@call
def update_workflow_cpu_quota(w: World, s: orm.Session) -> Answer:
    return quota.update_workflow_cpu_quota(s, w.run) >= 0


@call
def update_users_cpu_quota(w: World, s: orm.Session) -> Answer:
    quota.update_users_cpu_quota(s, w.ada)
    return quota.update_users_cpu_quota(s)


@call
def update_cpu_usage(w: World, s: orm.Session) -> Answer:
    found = quota.update_cpu_usage(w.factory)
    return found.users, found.failed_users, found.figures >= 0


@call
def update_disk_usage(w: World, s: orm.Session) -> Answer:
    found = quota.update_disk_usage(w.factory)
    return found.workspaces, found.failed_users


@call
def update_usage(w: World, s: orm.Session) -> Answer:
    found = quota.update_usage(w.factory)
    return found.cpu.failed_users, found.disk.failed_users


@call
def reconcile(w: World, s: orm.Session) -> Answer:
    return len(list(quota.reconcile(w.factory)))


@call
def report_users(w: World, s: orm.Session) -> Answer:
    return [(use.email, len(use.resources)) for use in report.report_users(s)]


@call
def report_stored(w: World, s: orm.Session) -> Answer:
    return report.report_stored(s, w.ada)


@call
def report_workflows(w: World, s: orm.Session) -> Answer:
    return len(report.report_workflows(s, w.ada))


# -- lists


@call
def find(w: World, s: orm.Session) -> Answer:
    mine = query.find(s, Workflow, {"owner_id": w.ada, "status": "queued"}, sort="name", total=True)
    return [run.name for run in mine.rows], mine.total


@call
def find_of_all_owners(w: World, s: orm.Session) -> Answer:
    first = query.find(s, Workflow, {}, sort="-created", limit=3)
    more = query.find(s, Workflow, {}, sort="-created", limit=30, cursor=first.cursor)
    return len(first.rows), len(more.rows), query.find(s, Workflow, {}, total=True, limit=1).total


@call
def find_by_labels(w: World, s: orm.Session) -> Answer:
    found = query.find(s, Workflow, {"owner_id": w.ada}, labels="team=up")
    return [run.name for run in found.rows], len(
        query.find(s, Workflow, {"owner_id": w.ada}, search="anal").rows
    )


@call
def find_jobs(w: World, s: orm.Session) -> Answer:
    return sorted(
        str(job.job_name) for job in query.find(s, Job, {"owner_id": w.ada, "workflow_id": w.run}).rows
    )


@call
def find_shared(w: World, s: orm.Session) -> Answer:
    return len(query.find(s, Workflow, {"owner_id": w.ada}, include_shared=True).rows)


@call
def find_by_prefix(w: World, s: orm.Session) -> Answer:
    return query.find_by_prefix(s, Workflow, str(w.run)[:30]).name


@call
def select_rows(w: World, s: orm.Session) -> Answer:
    return len(s.scalars(query.select_rows(Workflow, {"owner_id": w.ada})).all())


@call
def describe_row(w: World, s: orm.Session) -> Answer:
    return sorted(query.describe(s.get(Workflow, w.run)))


@call
def relationships(w: World, s: orm.Session) -> Answer:
    runs = s.scalars(
        sa.select(Workflow)
        .where(Workflow.owner_id == w.ada, Workflow.id_ == w.run)
        .options(orm.selectinload(Workflow.jobs), orm.joinedload(Workflow.owner))
    )
    return [(run.owner.email, len(run.jobs)) for run in runs]


# -- results of a cluster's tasks


@call
def task_store(w: World, s: orm.Session) -> Answer:
    store = tasks.TaskStore(w.engine.url, w.ada)
    try:
        for number in range(3):
            store.add(
                f"task-{number}", {"label": "fit", "submitted": datetime.now(timezone.utc), "content": b"x"}
            )
        store.update("task-0", {"completed": datetime.now(timezone.utc), "result_content": {"status": "ok"}})
        store.flush()
        assert store.drop_matching({"label": "none"}) == 0
        return (
            store.get("task-0")["label"],
            sorted(store.list_ids()),
            len(store.find({"label": "fit"})),
            store.drop("task-2"),
        )
    finally:
        store.close()


@call
def get_task(w: World, s: orm.Session) -> Answer:
    return tasks.get_task(s, w.ada, "task-0")["label"]


@call
def list_tasks(w: World, s: orm.Session) -> Answer:
    return sorted(task.msg_id for task in tasks.list_tasks(s, w.ada).rows)


@call
def stored_bytes(w: World, s: orm.Session) -> Answer:
    return tasks.stored_bytes(s, w.ada) > 0


@call
def prune_tasks(w: World, s: orm.Session) -> Answer:
    dry = tasks.prune_tasks(w.factory, older_than=timedelta(0), dry_run=True)
    return dry, tasks.prune_tasks(w.factory, older_than=timedelta(0))


# -- provenance


@call
def record_calls(w: World, s: orm.Session) -> Answer:
    store = provenance.CallStore(w.engine, w.ada)
    try:
        fit = store.record_task("fit", "def fit(x): return x + 1")
        w.execution = store.begin_execution(["fit.py"])
        first = store.begin_call(fit, (1,), execution=w.execution)
        found = [store.find_cached(first)]
        result = store.end_call(first, 2)
        second = store.begin_call(
            store.record_task("plot", "def plot(y): ..."), (result,), execution=w.execution
        )
        store.end_call(second, "drawn")
        lost = store.begin_call(fit, (7,), execution=w.execution)
        store.fail_call(lost, "no")
        store.record_heartbeat(w.execution)
        w.value_hash, w.job = result.value_hash, lost.id_
        store.flush()
        return found, store.get_value(result.value_hash)
    finally:
        store.close()


@call
def find_cached_call(w: World, s: orm.Session) -> Answer:
    store = provenance.CallStore(w.engine, w.ada)
    try:
        again = store.begin_call(
            store.record_task("fit", "def fit(x): return x + 1"),
            (1,),
            execution=store.begin_execution(["again.py"]),
        )
        found = store.find_cached(again)
        store.end_call(again, found)
        changed = store.begin_call(
            store.record_task("fit", "def fit(x): return x + 2"),
            (1,),
            execution=store.begin_execution(["more.py"]),
        )
        missed = store.find_cached(changed)
        reason = store.explain_miss(changed).reason
        store.fail_call(changed, "no")
        return found is None, missed is None, reason
    finally:
        store.close()


@call
def list_executions(w: World, s: orm.Session) -> Answer:
    return sorted(str(one.task_name) for one in provenance.list_executions(s, w.ada).rows)


@call
def lineage(w: World, s: orm.Session) -> Answer:
    down = provenance.lineage(s, w.ada, w.value_hash, direction=provenance.Direction.down)
    return [step.task_name for step in (*provenance.lineage(s, w.ada, w.value_hash), *down)]


@call
def find_entity(w: World, s: orm.Session) -> Answer:
    return provenance.find_entity(s, w.ada, w.value_hash)[0], sorted(
        provenance.describe(s, w.ada, w.value_hash)
    )


@call
def explain_miss_of_a_job(w: World, s: orm.Session) -> Answer:
    return provenance.explain_miss(s, w.ada, w.job).reason


@call
def activity(w: World, s: orm.Session) -> Answer:
    found = s.execute(
        sa.text(
            "SELECT kind, count(*) FROM platform.activity WHERE owner_id = :owner GROUP BY kind ORDER BY kind"
        ),
        {"owner": w.ada},
    )
    return [tuple(row) for row in found]


# -- Covalent


@call
def save_dispatch(w: World, s: orm.Session) -> Answer:
    w.manifest = make_manifest()
    run = covalent.save_dispatch(s, w.eve, w.manifest)
    w.dispatch = run.id_
    return run.status, covalent.save_dispatch(s, w.eve, w.manifest).revision


@call
def save_asset(w: World, s: orm.Session) -> Answer:
    covalent.save_asset(s, w.eve, w.dispatch, "result", b"5")
    return covalent.get_asset(s, w.eve, w.dispatch, "result").value


@call
def read_dispatch(w: World, s: orm.Session) -> Answer:
    return (
        sorted(covalent.get_dispatch(s, w.eve, w.dispatch)),
        sorted(covalent.get_electron(s, w.eve, w.dispatch, 0)),
        len(covalent.get_graph(s, w.eve, w.dispatch)["graph"]["links"]),
        sorted(covalent.get_manifest(s, w.eve, w.dispatch)),
        covalent.get_sublattices(s, w.eve, w.dispatch),
    )


@call
def list_dispatches(w: World, s: orm.Session) -> Answer:
    return covalent.list_dispatches(s, w.eve)["total_count"], sorted(covalent.overview(s, w.eve))


@call
def delete_dispatches(w: World, s: orm.Session) -> Answer:
    one = covalent.delete_dispatches(s, w.eve, [w.dispatch])
    return one, covalent.delete_all(s, w.eve)


# -- events


@call
def read_events(w: World, s: orm.Session) -> Answer:
    time.sleep(0.3)  # On several machines events come a moment later.
    page = events.read_events(s, limit=1000)
    return sorted(Counter((e.kind, e.entity) for e in page.events).items()), page.drained


@call
def read_events_of_an_owner(w: World, s: orm.Session) -> Answer:
    page = events.read_events(s, owners=[w.bob], limit=1000)
    return [(e.kind, e.entity, e.after) for e in page.events if e.entity_id == w.bobs]


@call
def read_later_events(w: World, s: orm.Session) -> Answer:
    with w.factory() as own:
        cursor = events.read_events(own, "latest").cursor
    with w.factory() as own, own.begin():
        lifecycle.add_note(own, own.get(Workflow, w.run), "later", "x")
    found: list[events.Event] = []
    while not found:  # On several machines events come when all their transactions have ended.
        with w.factory() as own:
            page = events.read_events(own, cursor)
        found, cursor = [event for event in page.events if event.topic == "later"], page.cursor
    return [(e.kind, e.topic) for e in found]


@call
def watch(w: World, s: orm.Session) -> Answer:
    return len(list(events.watch(w.factory, name="watcher", wait=0, kinds=["note"]))) > 3


@call
def consume(w: World, s: orm.Session) -> Answer:
    handled = events.consume(w.factory, "consumer", lambda event: None, wait=0)
    return handled.handled > 20, handled.skipped


@call
def wake(w: World, s: orm.Session) -> Answer:
    return events.wake(w.factory, wait=0)


@call
def watchers(w: World, s: orm.Session) -> Answer:
    return [one.name for one in events.watchers(s)]


@call
def forget_watcher(w: World, s: orm.Session) -> Answer:
    return events.forget(s, "watcher")


# -- tenants


@call
def create_roles(w: World, s: orm.Session) -> Answer:
    roles.create_roles(w.factory)
    return roles.grant_privileges(w.factory)


@call
def in_a_tenants_scope(w: World, s: orm.Session) -> Answer:
    with tenant_scope(w.engine, w.ada) as scoped:
        names = sorted(run.name for run in scoped.scalars(sa.select(Workflow)))
        made = workflows.create_workflow(scoped, w.ada, "scoped", {}, type_="serial")
        lifecycle.transition(scoped, made.id_, "queued", model=Workflow)
        logs.append_log(scoped, made.id_, "log\n", model=Workflow)
        return names, made.run_number, scoped.get(Workflow, w.bobs)


@call
def a_tenant_reads_by_sql(w: World, s: orm.Session) -> Answer:
    with tenant_scope(w.engine, w.bob) as scoped:
        return scoped.execute(
            sa.text("SELECT count(*) FROM platform.workflow WHERE owner_id <> :bob"), {"bob": w.bob}
        ).scalar()


@call
def sessions_of_a_tenant(w: World, s: orm.Session) -> Answer:
    with tenant_sessionmaker(w.engine, w.bob)() as scoped:
        return sorted(run.name for run in scoped.scalars(sa.select(Workflow))), in_tenant_scope(scoped)


@call
def a_tenant_writes_for_another(w: World, s: orm.Session) -> Answer:
    with tenant_scope(w.engine, w.bob) as scoped:
        scoped.add(Workflow(name="theft", owner_id=w.ada, type_="serial", specification={}))
        scoped.flush()


# -- the audit log


@call
def record_action(w: World, s: orm.Session) -> Answer:
    audit.set_origin(s, actor_id=w.bob, address="192.0.2.1", service="test", request_id="r")
    with audit.recorded_as(s, details={"why": "test"}):
        return audit.record_action(s, w.ada, "grant_token", {"a": 1}).action


@call
def list_audit(w: World, s: orm.Session) -> Answer:
    mine = audit.list_audit(s, user_id=w.ada, limit=500)
    return Counter(row.action for row in mine.rows)


@call
def list_audit_of_all(w: World, s: orm.Session) -> Answer:
    return Counter(row.action for row in audit.list_audit(s, limit=1000).rows)


@call
def export_audit(w: World, s: orm.Session) -> Answer:
    return len(list(audit.export_audit(s)))


@call
def seal_audit_log(w: World, s: orm.Session) -> Answer:
    return audit.seal_audit_log(w.factory).rows


@call
def verify_audit_log(w: World, s: orm.Session) -> Answer:
    found = audit.verify_audit_log(s)
    return found.rows, found.unsealed_rows


@call
def export_seals(w: World, s: orm.Session) -> Answer:
    return len(list(audit.export_seals(s)))


@call
def prune_audit_log(w: World, s: orm.Session) -> Answer:
    return audit.prune_audit_log(w.factory, timedelta(days=30))


@call
def prune_seals(w: World, s: orm.Session) -> Answer:
    return audit.prune_seals(s, timedelta(days=30))


@call
def audit_is_append_only(w: World, s: orm.Session) -> Answer:
    return s.execute(
        sa.text("UPDATE platform.audit_sealed SET action = 'x' WHERE owner_id = :o"), {"o": w.ada}
    ).rowcount


# -- operations


@call
def check_database(w: World, s: orm.Session) -> Answer:
    return check.check_database(w.engine.url).state, check.read_versions(w.engine.url)["state"]


@call
def check_deeply(w: World, s: orm.Session) -> Answer:
    return [(finding.check, finding.examples) for finding in deep_check.check_deeply(s)]


@call
def require_agreement(w: World, s: orm.Session) -> Answer:
    return agreement.require_agreement(w.engine.url)


@call
def read_stats(w: World, s: orm.Session) -> Answer:
    return stats.read_stats(s)["statuses"]


@call
def read_tables(w: World, s: orm.Session) -> Answer:
    return {
        table.name: table.rows
        for table in tables.read_tables(s)
        if table.name in ("user_", "workflow", "job")
    }


@call
def list_keys(w: World, s: orm.Session) -> Answer:
    return len(rows.list_keys(s, "job", prefix=str(w.ada)).rows), rows.read_row(s, "job", str(w.jobs[0]))[
        "job_name"
    ]


@call
def metrics(w: World, s: orm.Session) -> Answer:
    found = {}
    for source in (*sources.SOURCES, sources.tenants_source(5)):
        rows_ = list(source.read(s.connection()))
        if "table" in source.labels:
            continue
        found[next(iter(source.gauges))] = sorted(str(row[0]) for row in rows_ if source.labels)
    return found


@call
def analyze(w: World, s: orm.Session) -> Answer:
    return analyzing.analyze(w.factory, ["workflow", "job"])


# -- the ends


@call
def cancel(w: World, s: orm.Session) -> Answer:
    return workflows.cancel(s, w.run, reason="enough")


@call
def cancel_workflows(w: World, s: orm.Session) -> Answer:
    return [r.status for r in workflows.cancel_workflows(s, w.many, owner=None, reason="all", force=True)]


@call
def apply_rules(w: World, s: orm.Session) -> Answer:
    with w.factory() as own, own.begin():
        own.add(
            WorkspaceRetentionRule(
                owner_id=w.ada,
                workflow_id=w.run,
                workspace_files="*.tmp",
                retention_days=1,
                status="active",
                apply_on=datetime(2020, 1, 1, tzinfo=timezone.utc),
            )
        )
    report_ = apply_retention_rules(w.factory)
    return type(report_).__name__


@call
def delete_workflows(w: World, s: orm.Session) -> Answer:
    return [r.status for r in workflows.delete_workflows(s, [*w.many, w.run], reason="gone")]


@call
def prune(w: World, s: orm.Session) -> Answer:
    pruned = retention.prune(w.factory, retention.choose_rules((), older_than=timedelta(0)))
    return [(one.table, one.rows, one.left) for one in pruned]


@call
def prune_dry(w: World, s: orm.Session) -> Answer:
    return [one.table for one in retention.prune(w.factory, retention.choose_rules(()), dry_run=True)]


@call
def count_work(w: World, s: orm.Session) -> Answer:
    return users.count_work(s, s.get(User, w.ada))


@call
def delete_user_with_work_refused(w: World, s: orm.Session) -> Answer:
    return users.delete_user(s, s.get(User, w.bob))


@call
def delete_user(w: World, s: orm.Session) -> Answer:
    for owner in (w.ada, w.bob, w.eve):
        users.delete_user(s, s.get(User, owner), delete_work=True)
        s.flush()


@call
def what_is_left(w: World, s: orm.Session) -> Answer:
    counts = {}
    for table in Base.metadata.sorted_tables:
        if "owner_id" in table.columns and table.name not in ("audit_log", "row_event"):
            counts[table.name] = s.execute(sa.select(sa.func.count()).select_from(table)).scalar()
    return {name: count for name, count in counts.items() if count}
