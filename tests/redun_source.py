"""A redun database of these tests' own making, in the shape of redun 0.44, of SQLite or PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

HEAD = "0bee3d6dba76"

SCHEMA = """
CREATE TABLE alembic_version (version_num varchar(32) NOT NULL PRIMARY KEY);
CREATE TABLE redun_version (
    id varchar NOT NULL PRIMARY KEY, version integer NOT NULL, timestamp {time} NOT NULL);
CREATE TABLE task (
    hash varchar(40) NOT NULL PRIMARY KEY, name varchar NOT NULL, namespace varchar NOT NULL,
    source varchar NOT NULL);
CREATE TABLE value (
    value_hash varchar(40) NOT NULL PRIMARY KEY, type varchar NOT NULL, format varchar(100) NOT NULL,
    value {bytes} NOT NULL);
CREATE TABLE file (value_hash varchar(40) NOT NULL PRIMARY KEY, path varchar(1024) NOT NULL);
CREATE TABLE subvalue (
    value_hash varchar(40) NOT NULL, parent_value_hash varchar(40) NOT NULL,
    PRIMARY KEY (value_hash, parent_value_hash));
CREATE TABLE call_node (
    call_hash varchar(40) NOT NULL PRIMARY KEY, task_name varchar(1024) NOT NULL,
    task_hash varchar(40) NOT NULL, args_hash varchar(40) NOT NULL, value_hash varchar(40) NOT NULL,
    timestamp {time} NOT NULL);
CREATE TABLE call_subtree_task (
    call_hash varchar(40) NOT NULL, task_hash varchar(40) NOT NULL, PRIMARY KEY (call_hash, task_hash));
CREATE TABLE argument (
    arg_hash varchar(40) NOT NULL PRIMARY KEY, call_hash varchar(40) NOT NULL,
    value_hash varchar(40) NOT NULL, arg_position integer, arg_key varchar(100));
CREATE TABLE argument_result (
    arg_hash varchar(40) NOT NULL, result_call_hash varchar(40) NOT NULL,
    PRIMARY KEY (arg_hash, result_call_hash));
CREATE TABLE call_edge (
    parent_id varchar(40) NOT NULL, child_id varchar(40) NOT NULL, call_order integer NOT NULL,
    PRIMARY KEY (parent_id, child_id, call_order));
CREATE TABLE evaluation (
    eval_hash varchar(40) NOT NULL PRIMARY KEY, task_hash varchar(40) NOT NULL,
    args_hash varchar(40) NOT NULL, value_hash varchar(40) NOT NULL);
CREATE TABLE execution (
    id varchar NOT NULL PRIMARY KEY, args varchar NOT NULL, updated_time {time}, job_id varchar NOT NULL);
CREATE TABLE job (
    id varchar NOT NULL PRIMARY KEY, start_time {time} NOT NULL, end_time {time},
    task_hash varchar(40) NOT NULL, cached boolean NOT NULL, call_hash varchar(40), parent_id varchar,
    execution_id varchar NOT NULL);
CREATE INDEX ix_job_execution_id ON job (execution_id);
CREATE TABLE tag (
    tag_hash varchar(40) NOT NULL PRIMARY KEY, entity_type {entity} NOT NULL, entity_id varchar NOT NULL,
    key varchar NOT NULL, value {json} NOT NULL, is_current boolean NOT NULL);
CREATE TABLE tag_edit (
    parent_id varchar NOT NULL, child_id varchar NOT NULL, PRIMARY KEY (parent_id, child_id));
CREATE TABLE handle (
    hash varchar(40) NOT NULL PRIMARY KEY, fullname varchar(1024) NOT NULL, value_hash varchar(40) NOT NULL,
    key varchar(1024) NOT NULL, is_valid boolean NOT NULL);
CREATE TABLE handle_edge (
    parent_id varchar(40) NOT NULL, child_id varchar(40) NOT NULL, PRIMARY KEY (parent_id, child_id));
"""
ENTITIES = "CREATE TYPE tagentity AS ENUM ('Execution', 'Job', 'CallNode', 'Task', 'Value', 'Null')"
TYPES = {
    "sqlite": {"time": "datetime", "bytes": "blob", "json": "varchar", "entity": "varchar(9)"},
    "postgresql": {"time": "timestamptz", "bytes": "bytea", "json": "jsonb", "entity": "tagentity"},
}


def hash_of(*parts: object) -> str:
    """Return what stands for one of redun's hashes."""
    return hashlib.sha1(repr(parts).encode(), usedforsecurity=False).hexdigest()


class RedunDatabase:
    """A database with executions of 10 jobs each: one root and 9 children."""

    def __init__(self, uri: str, executions: int = 0) -> None:
        self.open(uri)
        kind = self.engine.dialect.name
        statements = SCHEMA.format(**TYPES[kind]).split(";")[:-1]
        with self.engine.begin() as connection:
            for statement in ([ENTITIES] if kind == "postgresql" else []) + statements:
                connection.exec_driver_sql(statement)
        self.add("alembic_version", version_num=HEAD)
        self.add("redun_version", id="1", version=3, timestamp="2024-01-01 00:00:00.000000")
        self.fill(range(executions))

    def open(self, uri: str) -> None:
        self.uri = uri
        self.engine = sa.create_engine(uri)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(
                self.engine, "connect", lambda dbapi, _: dbapi.execute("PRAGMA synchronous = OFF")
            )

    @classmethod
    def at(cls, path: Path, executions: int = 0) -> RedunDatabase:
        """Make one in a file of SQLite."""
        return cls(f"sqlite:///{path}", executions)

    def copy(self, path: Path) -> RedunDatabase:
        """Return a copy of one in a file of SQLite."""
        shutil.copy(str(self.engine.url.database), path)
        copied = RedunDatabase.__new__(RedunDatabase)
        copied.open(f"sqlite:///{path}")
        return copied

    def execute(self, statement: str, **values: Any) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(sa.text(statement), values)
            return list(result.all()) if result.returns_rows else []

    def add(self, table: str, *rows: dict[str, Any], **row: Any) -> None:
        """Add rows to a table, with columns of the same names."""
        with self.engine.begin() as connection:
            _insert(connection, table, list(rows or (row,)))

    def add_value(self, name: object, data: bytes, type_: str = "builtins.int") -> str:
        row = _value(name, data, type_)
        self.add("value", row)
        return str(row["value_hash"])

    def fill(self, executions: range) -> None:
        """Add executions, each with calls, values and tags of its own."""
        rows = _Rows()
        for number in executions:
            rows.add_execution(number)
        with self.engine.begin() as connection:
            for table, added in rows.by_table.items():
                _insert(connection, table, added)


def _insert(connection: sa.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    connection.execute(sa.insert(sa.table(table, *map(sa.column, rows[0]))), rows)


def _value(name: object, data: bytes, type_: str = "builtins.int") -> dict[str, Any]:
    return {
        "value_hash": hash_of("value", name),
        "type": type_,
        "format": "application/python-pickle",
        "value": data,
    }


class _Rows:
    """The rows of executions, by table."""

    def __init__(self) -> None:
        self.by_table: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def add(self, table: str, *rows: dict[str, Any], **row: Any) -> None:
        self.by_table[table] += rows or (row,)

    def add_execution(self, number: int) -> None:
        of = f"2024-03-{number % 28 + 1:02} {number // 28 % 24:02}"
        tasks = {name: hash_of("task", name) for name in ("main", "part")}
        if number == 0:
            self.add(
                "task",
                *(
                    {
                        "hash": hash_,
                        "name": name,
                        "namespace": "",
                        "source": f"def {name}():\n\treturn '\\é'\n",
                    }
                    for name, hash_ in tasks.items()
                ),
            )
        self.add("value", *(_value((number, i), bytes([i, 0, 92, 255]) * (i + 1)) for i in range(10)))
        values = [hash_of("value", (number, i)) for i in range(10)]
        self.add("file", value_hash=values[9], path=f"out/{number}.txt")
        self.add("subvalue", value_hash=values[9], parent_value_hash=values[0])
        calls = [hash_of("call", number, i) for i in range(10)]
        names = ["main", *["part"] * 9]
        common = [
            {
                "task_hash": tasks[names[i]],
                "args_hash": hash_of("args", number, i),
                "value_hash": values[i],
            }
            for i in range(10)
        ]
        self.add(
            "call_node",
            *(
                {
                    "call_hash": calls[i],
                    "task_name": names[i],
                    "timestamp": f"{of}:00:{i:02}.000001",
                    **common[i],
                }
                for i in range(10)
            ),
        )
        self.add("evaluation", *({"eval_hash": hash_of("eval", number, i), **common[i]} for i in range(10)))
        self.add(
            "call_subtree_task",
            *(
                {"call_hash": calls[i], "task_hash": tasks[name]}
                for i in range(10)
                for name in {names[i], "part"}
            ),
        )
        self.add(
            "argument",
            *(
                {
                    "arg_hash": hash_of("arg", number, i),
                    "call_hash": calls[i],
                    "value_hash": values[i - 1],
                    "arg_position": i if i % 2 else None,
                    "arg_key": None if i % 2 else "k",
                }
                for i in range(1, 10)
            ),
        )
        self.add("argument_result", arg_hash=hash_of("arg", number, 2), result_call_hash=calls[1])
        self.add(
            "call_edge",
            *({"parent_id": calls[0], "child_id": calls[i], "call_order": i} for i in range(1, 10)),
        )
        jobs = [hash_of("job", number, i) for i in range(10)]
        self.add(
            "execution",
            id=hash_of("execution", number),
            args=json.dumps(["redun", "run", "wörk\tflow.py", "main"]),
            updated_time=f"{of}:01:00.000000",
            job_id=jobs[0],
        )
        # As other than redun's, so that a child may come before its parent.
        self.add(
            "job",
            *(
                {
                    "id": jobs[i],
                    "start_time": f"{of}:00:{i:02}.000000",
                    "end_time": f"{of}:00:{i + 10:02}.5",
                    "task_hash": tasks[names[i]],
                    "cached": i % 2 == 1,
                    "call_hash": calls[i],
                    "parent_id": jobs[0] if i else None,
                    "execution_id": hash_of("execution", number),
                }
                for i in reversed(range(10))
            ),
        )
        tags = [hash_of("tag", number, i) for i in range(2)]
        self.add(
            "tag",
            *(
                {
                    "tag_hash": tags[i],
                    "entity_type": "Job",
                    "entity_id": jobs[0],
                    "key": "note",
                    "value": json.dumps({"b": [1, 1.50, None, "\\u0000 é"], "a": number}, sort_keys=True),
                    "is_current": i == 1,
                }
                for i in range(2)
            ),
        )
        self.add("tag_edit", parent_id=tags[0], child_id=tags[1])
        handles = [hash_of("handle", number, i) for i in range(2)]
        self.add(
            "handle",
            *(
                {
                    "hash": handles[i],
                    "fullname": "db.conn",
                    "value_hash": values[i],
                    "key": f"k{i}",
                    "is_valid": i == 1,
                }
                for i in range(2)
            ),
        )
        self.add("handle_edge", parent_id=handles[0], child_id=handles[1])
