# ruff: noqa: E501, ISC004 (the statements are lists of lines)
"""Random queries and writes, as a service with a bug would make them inside a tenant's scope.

Every operation reaches, or may reach, for the rows of another tenant. What it returns is what it saw. Its SQL
is dressed as tracing hooks and careless code do it: with comments, several statements in one text, savepoints
in any order, and transactions that are ended in the middle.
"""

from __future__ import annotations

import io
import random
import uuid
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import insert

from platform_db import workflows
from platform_db.lifecycle import transitions
from platform_db.models import Base, Job, LogChunk, Note, User, UserWorkflow, Workflow
from platform_db.schema.objects import tenant_columns
from platform_db.states import RunStatus
from tests.tenants import Tenant

OWNERS = tenant_columns()
TABLES = {name: Base.metadata.tables[f"platform.{name}"] for name in OWNERS}
MODELS = {
    str(mapper.class_.__tablename__): mapper.class_
    for mapper in Base.registry.mappers
    if mapper.class_.__tablename__ in OWNERS
}

# What a migration of a platform of its own might add: neither checks anything itself.
EXTRAS = (
    "CREATE VIEW platform.every_job WITH (security_invoker) AS SELECT * FROM platform.job",
    "CREATE FUNCTION platform.every_run() RETURNS SETOF platform.workflow LANGUAGE sql STABLE"
    " AS 'SELECT * FROM platform.workflow'",
    "CREATE FUNCTION platform.rename_runs(n text) RETURNS void LANGUAGE plpgsql"
    " AS 'BEGIN UPDATE platform.workflow SET type_ = n; END'",
    "GRANT SELECT ON platform.every_job TO platform_tenant",
    "GRANT EXECUTE ON FUNCTION platform.every_run(), platform.rename_runs(text) TO platform_tenant",
    "DO $$ BEGIN EXECUTE 'GRANT TEMPORARY ON DATABASE ' || current_database() || ' TO platform_tenant'; END $$",
)

# Around an SQL text. These leave the transaction open, as it was or as another one.
IN_SCOPE = (
    "{}",
    "/* trace=1 */ {}",
    "-- trace\n{}",
    "SELECT 1; {}",
    "SAVEPOINT s; {}",
    "/* a */ SAVEPOINT s; /* b */ ROLLBACK TO SAVEPOINT s; {}",
    "SAVEPOINT s; SAVEPOINT t; ROLLBACK TO s; -- c\n{}",
    "SAVEPOINT s; RELEASE s; {}",
)
LEAVING = (
    "{0}; BEGIN; {1}",
    "/* a */ {0}; /* b */ BEGIN; SAVEPOINT s; {1}",
    "{0} AND CHAIN; {1}",
    "SELECT 1; {0}; {1}; BEGIN",
    "SAVEPOINT s; {0}; BEGIN; ROLLBACK; BEGIN; {1}",
)

# These commit what they do outside the scope, which a login that is the tenants' role alone holds against.
COMMITTING = ("{0}; {1}", "/* a */ {0}; {1}; COMMIT", "{0}; BEGIN; {1}; COMMIT; BEGIN")


class Operations:
    """A seeded sequence of operations by one tenant's service, with another tenant's ids at hand.

    :param own: the tenant of the scope.
    :param other: the tenant whose rows must not be touched.
    :param commit_outside: whether texts may end the transaction and commit something after it.
    """

    def __init__(self, seed: int, own: Tenant, other: Tenant, *, commit_outside: bool = False) -> None:
        self.random = random.Random(seed)
        self.own = own
        self.other = other
        self.leaving = (*LEAVING, *COMMITTING) if commit_outside else LEAVING

    def run(self, session: orm.Session) -> Any:
        """Do the next operation, and return what it saw."""
        operation: Callable[[orm.Session], Any] = self.random.choice(
            [getattr(self, name) for name in sorted(dir(self)) if name.startswith(("read_", "write_"))]
        )
        return operation(session)

    def dressed(self, sql: str) -> sa.TextClause:
        """Return the SQL with comments, savepoints and other statements around it."""
        if self.random.random() < 0.8:
            return sa.text(self.random.choice(IN_SCOPE).format(sql))
        return sa.text(
            self.random.choice(self.leaving).format(self.random.choice(["COMMIT", "ROLLBACK"]), sql)
        )

    def table(self) -> str:
        """Choose a table."""
        return self.random.choice(sorted(OWNERS))

    def id_(self) -> uuid.UUID:
        """Choose an id: mostly the other tenant's."""
        other, own = self.other, self.own
        return self.random.choice([other.id_, other.run, other.job, other.token, own.id_, own.run])

    def condition(self, table: Any, name: str) -> Any:
        """Choose a condition: none, the other's rows by name, or one that is always true."""
        owner = getattr(table, "c", table)
        column = owner[OWNERS[name]] if hasattr(table, "c") else getattr(table, OWNERS[name])
        return self.random.choice(
            [
                sa.true(),
                column == self.other.id_,
                column != self.own.id_,
                sa.or_(column == self.id_(), sa.true()),
            ]
        )

    # -- reading

    def read_orm(self, session: orm.Session) -> Any:
        name = self.table()
        model = MODELS[name]
        query = sa.select(model).where(self.condition(model, name))
        if self.random.random() < 0.3:
            query = query.with_for_update()
        return [vars(row).copy() for row in session.scalars(query.execution_options(populate_existing=True))]

    def read_orm_alias(self, session: orm.Session) -> Any:
        name = self.table()
        first, second = orm.aliased(MODELS[name]), orm.aliased(MODELS[name])
        pairs = session.execute(sa.select(first, second).join(second, sa.true()).limit(500))
        return [vars(row).copy() for pair in pairs for row in pair]

    def read_orm_join(self, session: orm.Session) -> Any:
        name = self.table()
        model = MODELS[name]
        columns = [*sa.inspect(model).columns]
        join = self.random.choice([sa.true(), Workflow.owner_id != getattr(model, OWNERS[name])])
        query = sa.select(Workflow.id_, *columns).select_from(Workflow).join(model, join)
        if model is Workflow:
            query = sa.select(*columns)
        return session.execute(query.limit(500)).all()

    def read_orm_subquery(self, session: orm.Session) -> Any:
        name = self.table()
        model = MODELS[name]
        inner = sa.select(getattr(model, OWNERS[name]).label("owner")).where(self.condition(model, name))
        shape = self.random.choice(["subquery", "cte", "exists", "in", "union", "scalar"])
        if shape in ("subquery", "cte"):
            outer = inner.subquery() if shape == "subquery" else inner.cte()
            return session.execute(sa.select(outer.c.owner, sa.func.count()).group_by(outer.c.owner)).all()
        if shape == "exists":
            found = sa.exists(inner.where(getattr(model, OWNERS[name]) == self.other.id_))
            return (
                ["the other's row exists " + str(self.other.id_)] if session.scalar(sa.select(found)) else []
            )
        if shape == "in":
            query = sa.select(Job.id_, Job.owner_id).where(sa.or_(Job.owner_id.in_(inner), sa.true()))
            return session.execute(query).all()
        if shape == "union":
            return session.execute(inner.union_all(sa.select(Job.owner_id))).all()
        return session.scalar(sa.select(inner.limit(1).scalar_subquery()))

    def read_relationships(self, session: orm.Session) -> Any:
        load = self.random.choice([orm.selectinload, orm.joinedload, orm.subqueryload, orm.lazyload])
        runs = session.scalars(
            sa.select(Workflow)
            .options(load(Workflow.jobs), load(Workflow.owner), load(Workflow.retention_rules))
            .execution_options(populate_existing=True)
        ).unique()
        return [
            (run.id_, run.owner and run.owner.email, [job.job_name for job in run.jobs], run.retention_rules)
            for run in runs
        ]

    def read_users_relationships(self, session: orm.Session) -> Any:
        return [
            (user.email, [run.id_ for run in user.workflows], session.scalars(user.tokens.select()).all())
            for user in session.scalars(sa.select(User))
        ]

    def read_by_key(self, session: orm.Session) -> Any:
        model: Any = self.random.choice([Workflow, Job, User, Note])
        row = session.get(model, self.random.choice([self.other.id_, self.other.run, self.other.job]))
        return None if row is None else vars(row).copy()

    def read_core(self, session: orm.Session) -> Any:
        name = self.table()
        table = TABLES[name]
        query = sa.select(table).where(self.condition(table, name))
        if self.random.random() < 0.5:
            other = TABLES[self.table()].alias()
            query = query.select_from(table.join(other, sa.true(), isouter=True)).limit(500)
        return session.execute(query).all()

    def read_text(self, session: orm.Session) -> Any:
        name, other = self.table(), self.table()
        owner = OWNERS[name]
        return session.execute(
            self.dressed(
                self.random.choice(
                    [
                        f"SELECT * FROM platform.{name}",
                        f"SELECT * FROM platform.{name} WHERE {owner} = '{self.other.id_}'",
                        f"SELECT a.* FROM platform.{name} a, platform.{other} b LIMIT 500",
                        f"WITH x AS (SELECT * FROM platform.{name}) SELECT * FROM x",
                        f"WITH x AS MATERIALIZED (SELECT * FROM platform.{name}) SELECT x::text FROM x",
                        f"SELECT {owner}, count(*) OVER (), to_jsonb(t)::text FROM platform.{name} AS t",
                        f"SELECT {owner} FROM platform.{name} UNION SELECT {OWNERS[other]} FROM platform.{other}",
                        f"SELECT (SELECT {owner} FROM platform.{name} WHERE {owner} <> '{self.own.id_}' LIMIT 1)",
                        f"SELECT l.* FROM platform.{other}, LATERAL (SELECT * FROM platform.{name}) l LIMIT 500",
                        f"SELECT * FROM platform.{name} TABLESAMPLE SYSTEM (100)",
                        f"SELECT * FROM platform.{name} FOR SHARE",
                        "SELECT * FROM platform.every_job",
                        "SELECT * FROM platform.every_run()",
                        f"SELECT query_to_xml('SELECT * FROM platform.{name}', true, true, '')::text",
                    ]
                )
            )
        ).all()

    def read_copy(self, session: orm.Session) -> Any:
        target = io.StringIO()
        cursor = session.connection().connection.cursor()
        cursor.copy_expert(f"COPY platform.{self.table()} TO STDOUT", target)
        return target.getvalue()

    def read_between_savepoints(self, session: orm.Session) -> Any:
        seen = []
        for _ in range(4):
            self.savepoint(session)
            seen.append(self.random.choice([self.read_core, self.read_text, self.read_orm])(session))
        return seen

    def savepoint(self, session: orm.Session) -> None:
        """Make a savepoint, or roll back to one or release it, by any of three ways."""
        points = session.info.setdefault("points", [])
        way = self.random.choice(["begin", "text", "text", "end"])
        if way == "begin":
            points.append(
                session.begin_nested() if self.random.random() < 0.5 else session.connection().begin_nested()
            )
        elif way == "end" and points:
            getattr(
                points.pop(self.random.randrange(len(points))), self.random.choice(["rollback", "commit"])
            )()
        else:
            session.execute(
                self.dressed(
                    self.random.choice(
                        [
                            "SAVEPOINT a",
                            "SAVEPOINT b; SAVEPOINT a",
                            "SAVEPOINT a; ROLLBACK TO a",
                            "SAVEPOINT a; SAVEPOINT b; ROLLBACK TO a; RELEASE a",
                            "ROLLBACK TO a",
                            "RELEASE b",
                        ]
                    )
                )
            )

    def read_memory(self, session: orm.Session) -> Any:
        return [
            vars(row).copy()
            for model, id_ in self.other.rows()
            if (row := session.get(model, id_)) is not None
        ]

    def read_library(self, session: orm.Session) -> Any:
        if self.random.random() < 0.5:
            return workflows.get_workflow(session, self.other.run, self.other.id_, include_shared=True).id_
        return [run.id_ for run in workflows.list_workflows(session, self.other.id_).rows]

    # -- writing

    def write_orm_insert(self, session: orm.Session) -> Any:
        owner, run = self.other.id_, self.other.run
        rows: list[Base] = [
            Workflow(name="x", owner_id=owner, type_="serial", specification={}),
            Workflow(name="x", owner_id=owner, type_="serial", specification={}, run_number="7"),
            Job(workflow_id=run, owner_id=owner),
            Job(workflow_id=run, owner_id=self.own.id_),
            Job(workflow_id=run),
            LogChunk(workflow_id=run, owner_id=owner, data=b"x"),
            Note(owner_id=owner, entity="workflow", entity_id=self.own.run, topic="t", message="m"),
            UserWorkflow(owner_id=owner, workflow_id=run, user_id=self.own.id_),
        ]
        row = self.random.choice(rows)
        if self.random.random() < 0.3:
            session.bulk_save_objects([row])
        else:
            session.add(row)
        session.flush()

    def write_bulk_insert(self, session: orm.Session) -> Any:
        values = [
            {"owner_id": owner, "entity": "job", "entity_id": self.own.job, "topic": "t", "message": "m"}
            for owner in (self.own.id_, self.other.id_)
        ]
        if self.random.random() < 0.5:
            session.execute(sa.insert(Note), values)
        else:
            session.execute(sa.insert(TABLES["note"]), [{**row, "id_": uuid.uuid4()} for row in values])

    def write_orm_object(self, session: orm.Session) -> Any:
        for run in session.scalars(sa.select(Workflow)):
            if self.random.random() < 0.5:
                run.type_ = "changed"
            else:
                run.owner_id = self.other.id_
        session.flush()

    def write_orm_update(self, session: orm.Session) -> Any:
        name = self.random.choice(["workflow", "job", "note", "interactive_session", "service", "user_"])
        model = MODELS[name]
        column = {"workflow": "type_", "job": "job_name", "note": "message", "user_": "full_name"}.get(
            name, "name"
        )
        values = self.random.choice(
            [{column: f"changed {self.random.random()}"}, {OWNERS[name]: self.other.id_}]
        )
        session.execute(
            sa.update(model)
            .where(self.condition(model, name))
            .values(values)
            .execution_options(synchronize_session=False)
        )

    def write_bulk_update(self, session: orm.Session) -> Any:
        session.execute(
            sa.update(Job), [{"id_": self.other.job, "job_name": "x"}, {"id_": self.own.job, "job_name": "y"}]
        )

    def write_delete(self, session: orm.Session) -> Any:
        name = self.random.choice(["note", "job", "workflow", "user_workflow", "workspace_retention_rule"])
        if self.random.random() < 0.5:
            statement: Any = sa.delete(MODELS[name]).where(self.condition(MODELS[name], name))
        else:
            statement = sa.delete(TABLES[name]).where(TABLES[name].c.owner_id == self.other.id_)
        session.execute(statement.execution_options(synchronize_session=False))

    def write_upsert(self, session: orm.Session) -> Any:
        statement = insert(TABLES["note"]).values(
            id_=self.random.choice([uuid.uuid4(), self.other.note]),
            owner_id=self.random.choice([self.own.id_, self.other.id_]),
            entity="job",
            entity_id=self.own.job,
            topic="t",
            message="stolen",
        )
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["id_"],
                set_={"message": statement.excluded.message, "owner_id": statement.excluded.owner_id},
            )
        )

    def write_between_savepoints(self, session: orm.Session) -> Any:
        for _ in range(4):
            self.savepoint(session)
            self.random.choice([self.write_text, self.write_orm_update, self.write_delete])(session)

    def write_behind_sqlalchemy(self, session: orm.Session) -> Any:
        cursor = session.connection().connection.cursor()
        cursor.execute(f"{self.random.choice(['COMMIT', 'ROLLBACK'])}; BEGIN; DELETE FROM platform.note")
        if self.random.random() < 0.5:
            self.write_text(session)

    def write_trigger(self, session: orm.Session) -> Any:
        entity, row = self.random.choice([("workflow", self.own.run), ("job", self.own.job)])
        owner = self.random.choice([self.own.id_, self.other.id_])
        for sql in (
            "CREATE TEMPORARY TABLE gone (owner_id uuid, id_ uuid) ON COMMIT DROP",
            "CREATE TRIGGER forget AFTER DELETE ON gone"
            " REFERENCING OLD TABLE AS deleted"
            f" FOR EACH STATEMENT EXECUTE FUNCTION platform.forget('{entity}')",
            f"INSERT INTO gone VALUES ('{owner}', '{row}')",
            "DELETE FROM gone",
        ):
            session.execute(self.dressed(sql))

    def write_text(self, session: orm.Session) -> Any:
        other, own = self.other, self.own
        name = self.table()
        owner = OWNERS[name]
        session.execute(
            self.dressed(
                self.random.choice(
                    [
                        f"UPDATE platform.{name} SET {owner} = {owner}",
                        f"UPDATE platform.{name} SET {owner} = '{other.id_}'",
                        f"UPDATE platform.{name} SET {owner} = '{own.id_}' WHERE {owner} = '{other.id_}'",
                        "UPDATE platform.workflow SET type_ = 'z'",
                        f"UPDATE platform.job SET job_name = 'z' WHERE id_ = '{other.job}'",
                        "UPDATE platform.workflow w SET type_ = j.job_name FROM platform.job j",
                        "UPDATE platform.user_resource SET quota_limit = 0",
                        f"UPDATE platform.user_ SET email = 'x' WHERE id_ = '{other.id_}'",
                        f"DELETE FROM platform.{name} WHERE {owner} = '{other.id_}'",
                        "DELETE FROM platform.note USING platform.job",
                        f"DELETE FROM platform.job WHERE owner_id <> '{own.id_}'",
                        f"TRUNCATE platform.{name} CASCADE",
                        "INSERT INTO platform.note SELECT gen_random_uuid(), owner_id, entity, entity_id, topic,"
                        " 'copied', details, at FROM platform.note",
                        "INSERT INTO platform.audit_log (id_, owner_id, action)"
                        f" VALUES (gen_random_uuid(), '{other.id_}', 'grant_token')",
                        f"INSERT INTO platform.lease VALUES ('{other.id_}', 'job', '{other.job}', 'h', now())",
                        f"MERGE INTO platform.job USING (VALUES (1)) AS v ON job.id_ = '{other.job}'"
                        " WHEN MATCHED THEN UPDATE SET job_name = 'merged'",
                        "SELECT platform.rename_runs('renamed')",
                        f"SELECT platform.activate_workspace_retention_rules('{other.id_}', '{other.run}')",
                    ]
                )
            )
        )

    def write_library(self, session: orm.Session) -> Any:
        run = self.other.run
        if self.random.random() < 0.4:
            return transitions.transition_many(session, [run], RunStatus.queued)[0].status
        if self.random.random() < 0.5:
            return transitions.transition(session, run, RunStatus.queued)
        return workflows.update_workflow_status(session, run, RunStatus.queued, new_logs="x")
