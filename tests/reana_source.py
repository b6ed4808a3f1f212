"""A REANA database of these tests' own making, in the shape of the stable release or of 0.95.0a8."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import sqlalchemy as sa
from sqlalchemy.engine import make_url

OLD_KEY = "the key of a REANA platform"
HEADS = {"0.9.5": "eb5309f3d8ee", "0.95.0a8": "3da4dd5d0b75"}

SCHEMA = """
CREATE SCHEMA __reana;
CREATE TABLE __reana.alembic_version (version_num varchar(32) PRIMARY KEY);
CREATE TYPE usertokenstatus AS ENUM ('requested', 'active', 'revoked');
CREATE TYPE usertokentype AS ENUM ('reana');
CREATE TYPE runstatus AS ENUM
    ('created', 'running', 'finished', 'failed', 'deleted', 'stopped', 'queued', 'pending');
CREATE TYPE jobstatus AS ENUM ('created', 'running', 'finished', 'failed', 'stopped', 'queued');
CREATE TYPE interactivesessiontype AS ENUM ('jupyter');
CREATE TYPE auditlogaction AS ENUM ('request_token', 'grant_token', 'revoke_token');
CREATE TYPE workspaceretentionrulestatus AS ENUM ('created', 'active', 'inactive', 'applied', 'pending');
CREATE TYPE resourcetype AS ENUM ('cpu', 'gpu', 'disk');
CREATE TYPE resourceunit AS ENUM ('bytes_', 'milliseconds');
CREATE TABLE __reana.user_ (
    created timestamp NOT NULL DEFAULT now(), updated timestamp NOT NULL DEFAULT now(),
    id_ uuid UNIQUE, email varchar(255) UNIQUE, full_name varchar(255), username varchar(255),
    PRIMARY KEY (id_, email));
CREATE TABLE __reana.user_token (
    created timestamp NOT NULL DEFAULT now(), updated timestamp NOT NULL DEFAULT now(),
    id_ uuid PRIMARY KEY, token bytea UNIQUE, status usertokenstatus,
    user_id uuid NOT NULL REFERENCES __reana.user_ (id_), type_ usertokentype NOT NULL);
CREATE TABLE __reana.audit_log (
    created timestamp NOT NULL DEFAULT now(), updated timestamp NOT NULL DEFAULT now(),
    id_ uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES __reana.user_ (id_), action auditlogaction NOT
        NULL,
    details json);
CREATE TABLE __reana.workflow (
    created timestamp NOT NULL DEFAULT now(), updated timestamp NOT NULL DEFAULT now(),
    id_ uuid PRIMARY KEY, name varchar(255), status runstatus, owner_id uuid REFERENCES __reana.user_ (id_),
    reana_specification json, input_parameters json, operational_options json, complexity bigint[][],
    type_ varchar(30), logs varchar, run_started_at timestamp, run_finished_at timestamp, run_stopped_at
        timestamp,
    run_number_major integer, run_number_minor integer, job_progress json, workspace_path varchar,
    restart boolean, engine_specific json, git_ref varchar(40), git_repo varchar(255), git_provider
        varchar(255),
    launcher_url varchar, UNIQUE (owner_id, name, run_number_major, run_number_minor));
CREATE INDEX ON __reana.workflow (status);
CREATE TABLE __reana.job (
    created timestamp NOT NULL DEFAULT now(), updated timestamp NOT NULL DEFAULT now(),
    id_ uuid PRIMARY KEY, backend_job_id varchar(256), workflow_uuid uuid, status jobstatus,
    compute_backend varchar(30), cvmfs_mounts text, shared_file_system boolean, docker_img varchar(256),
        cmd json,
    env_vars json, deleted boolean, logs varchar, started_at timestamp, finished_at timestamp,
        prettified_cmd json,
    job_name text);
CREATE INDEX ON __reana.job (workflow_uuid, created);
CREATE TABLE __reana.job_cache (
    created timestamp NOT NULL DEFAULT now(), updated timestamp NOT NULL DEFAULT now(),
    id_ uuid, job_id uuid REFERENCES __reana.job (id_), parameters varchar(1024), result_path varchar(1024),
    workspace_hash varchar(1024), access_times json, PRIMARY KEY (id_, job_id));
CREATE TABLE __reana.interactive_session (
    created timestamp NOT NULL DEFAULT now(), updated timestamp NOT NULL DEFAULT now(),
    id_ uuid PRIMARY KEY, name varchar(255), path text, status runstatus NOT NULL,
    owner_id uuid REFERENCES __reana.user_ (id_), type_ interactivesessiontype NOT NULL, UNIQUE (name, path));
CREATE TABLE __reana.workflow_session (
    workflow_id uuid REFERENCES __reana.workflow (id_),
    session_id uuid PRIMARY KEY REFERENCES __reana.interactive_session (id_));
CREATE TABLE __reana.workspace_retention_rule (
    id_ uuid PRIMARY KEY, workflow_id uuid NOT NULL REFERENCES __reana.workflow (id_),
    workspace_files varchar(255) NOT NULL, retention_days integer NOT NULL, apply_on timestamp,
    status workspaceretentionrulestatus NOT NULL, UNIQUE (workflow_id, workspace_files));
CREATE TABLE __reana.workspace_retention_audit_log (
    workspace_retention_rule_id uuid NOT NULL REFERENCES __reana.workspace_retention_rule (id_),
    timestamp timestamp DEFAULT now(), action workspaceretentionrulestatus NOT NULL,
    PRIMARY KEY (workspace_retention_rule_id, timestamp, action));
CREATE TABLE __reana.resource (
    created timestamp NOT NULL DEFAULT now(), updated timestamp NOT NULL DEFAULT now(),
    id_ uuid PRIMARY KEY, name varchar(1024) UNIQUE NOT NULL, type_ resourcetype NOT NULL,
    unit resourceunit NOT NULL, title varchar(1024));
CREATE TABLE __reana.user_resource (
    created timestamp NOT NULL DEFAULT now(), updated timestamp NOT NULL DEFAULT now(),
    user_id uuid REFERENCES __reana.user_ (id_), resource_id uuid REFERENCES __reana.resource (id_),
    quota_limit bigint, quota_used bigint, PRIMARY KEY (user_id, resource_id));
CREATE TABLE __reana.workflow_resource (
    created timestamp NOT NULL DEFAULT now(), updated timestamp NOT NULL DEFAULT now(),
    workflow_id uuid REFERENCES __reana.workflow (id_), resource_id uuid REFERENCES __reana.resource (id_),
    quota_used bigint, PRIMARY KEY (workflow_id, resource_id));
CREATE TABLE __reana.interactive_session_resource (
    created timestamp NOT NULL DEFAULT now(), updated timestamp NOT NULL DEFAULT now(),
    session_id uuid REFERENCES __reana.interactive_session (id_), resource_id uuid REFERENCES
        __reana.resource (id_),
    quota_used bigint, PRIMARY KEY (session_id, resource_id));
"""

# What the stable release lacks.
NEWER = """
ALTER TABLE __reana.job ALTER workflow_uuid SET NOT NULL,
    ADD FOREIGN KEY (workflow_uuid) REFERENCES __reana.workflow (id_);
CREATE TYPE accesstype AS ENUM ('read');
CREATE TYPE servicestatus AS ENUM
    ('created', 'running', 'finished', 'failed', 'deleted', 'stopped', 'queued', 'pending');
CREATE TYPE servicetype AS ENUM ('dask');
CREATE TABLE __reana.user_workflow (
    workflow_id uuid REFERENCES __reana.workflow (id_), user_id uuid REFERENCES __reana.user_ (id_),
    access_type accesstype NOT NULL, message varchar(5000), valid_until timestamp,
    PRIMARY KEY (workflow_id, user_id));
CREATE TABLE __reana.service (
    id_ uuid PRIMARY KEY, name varchar(255), uri text, status servicestatus NOT NULL,
    owner_id uuid REFERENCES __reana.user_ (id_), type_ servicetype NOT NULL, UNIQUE (name, uri));
CREATE TABLE __reana.workflow_service (
    workflow_id uuid REFERENCES __reana.workflow (id_),
    service_id uuid PRIMARY KEY REFERENCES __reana.service (id_));
CREATE TABLE __reana.service_logs (
    id uuid PRIMARY KEY, service_id uuid NOT NULL REFERENCES __reana.service (id_) ON DELETE CASCADE,
    event_time timestamptz NOT NULL DEFAULT timezone('utc', CURRENT_TIMESTAMP), log jsonb NOT NULL);
"""

USERS = 20
RUNS = 500

# Ids are hashes, as random as uuid4's. Times differ by the number of the row.
ROWS = """
INSERT INTO __reana.resource (id_, name, type_, unit, title) VALUES
    (md5('cpu')::uuid, 'processing time', 'cpu', 'milliseconds', 'Default cpu resource.'),
    (md5('disk')::uuid, 'shared storage', 'disk', 'bytes_', NULL);
INSERT INTO __reana.user_ (id_, email, full_name, username, created, updated)
SELECT CASE n WHEN 0 THEN '00000000-0000-0000-0000-000000000000' ELSE md5('user' || n)::uuid END,
       'user' || n || '@example.org', 'User ' || n, 'user' || n, t, t + interval '1 hour'
FROM generate_series(0, %(users)s - 1) AS n, LATERAL (SELECT timestamp '2023-01-01' + n * interval '1 day')
    AS x (t);
CREATE TEMP TABLE owner AS
SELECT row_number() OVER (ORDER BY created) - 1 AS place, id_ FROM __reana.user_;
INSERT INTO __reana.user_resource (user_id, resource_id, quota_limit, quota_used)
SELECT owner.id_, resource.id_, (ARRAY[0, 1000000000, -5, NULL])[1 + place %% 4], (ARRAY[0, 12345, -7,
    NULL])[1 + place %% 4]
FROM owner, __reana.resource WHERE place <> 7;
INSERT INTO __reana.workflow
    (id_, name, status, owner_id, reana_specification, input_parameters, operational_options, complexity,
        type_,
     logs, run_started_at, run_finished_at, run_stopped_at, run_number_major, run_number_minor, job_progress,
     workspace_path, restart, engine_specific, git_ref, created, updated)
SELECT md5('run' || n)::uuid, 'analysis' || n %% 60, status, owner.id_,
       json_build_object('workflow', json_build_object('type', 'serial', 'step', n), 'b', 1, 'a', '\\u00e9'),
       '{"events": 20000.50}', '{}', CASE n %% 3 WHEN 0 THEN '{}'::bigint[] ELSE
           '{{8, 4294967296}, {1, 2}}' END,
       'serial', CASE n %% 2 WHEN 0 THEN 'log of run ' || n || E'\\n' ELSE '' END,
       CASE WHEN status IN ('running', 'finished', 'failed', 'stopped') THEN t + interval '1 minute' END,
       CASE WHEN status IN ('finished', 'failed', 'stopped') THEN t + interval '5 minutes' END,
       CASE WHEN status = 'stopped' THEN t + interval '5 minutes' END,
       1 + (n / 60) / 3, (n / 60) %% 3, CASE n %% 5 WHEN 0 THEN NULL ELSE '{"total": {"total": 2}}'::json END,
       %(root)s || '/users/' || owner.id_ || '/workflows/' || md5('run' || n %% 60 || '.' || (n / 60) / 3),
       (n / 60) %% 3 > 0, 'null', '', t, t + interval '6 minutes'
FROM generate_series(0, %(runs)s - 1) AS n JOIN owner ON owner.place = n %% 60 %% (%(users)s - 1)
CROSS JOIN LATERAL (
    SELECT (enum_range(NULL::runstatus))[1 + n %% 8], timestamp '2024-01-01' + n * interval '1 hour'
) AS x (status, t);
INSERT INTO __reana.job
    (id_, backend_job_id, workflow_uuid, status, compute_backend, cvmfs_mounts, shared_file_system,
        docker_img, cmd,
     env_vars, deleted, logs, started_at, finished_at, prettified_cmd, job_name, created, updated)
SELECT md5('job' || n)::uuid, 'backend-' || n, md5('run' || n / 2)::uuid, status, 'kubernetes',
       CASE n %% 4 WHEN 0 THEN '[''atlas.cern.ch'']' END, n %% 2 = 0, 'docker.io/library/python:3.11',
       to_json('python "run.py" --n ' || n), to_json('{"A": "1", "n": ' || n || '}'), NULLIF(n %% 3, 1) = 0,
       CASE WHEN n %% 3 > 0 THEN 'log of job ' || n END,
       CASE WHEN status IN ('running', 'finished', 'failed', 'stopped') THEN t + interval '1 minute' END,
       CASE WHEN status IN ('finished', 'failed') THEN t + interval '2 minutes' END,
       to_json('python run.py'::text), 'step' || n, t, t + interval '3 minutes'
FROM generate_series(0, 2 * %(runs)s - 1) AS n
CROSS JOIN LATERAL (
    SELECT (enum_range(NULL::jobstatus))[1 + n %% 6], timestamp '2024-01-01' + n * interval '30 minutes'
) AS x (status, t);
INSERT INTO __reana.job_cache (id_, job_id, parameters, workspace_hash, result_path, access_times, updated)
SELECT md5('cache' || n)::uuid, md5('job' || n)::uuid, CASE WHEN n %% 5 > 0 THEN '{"n": ' || n %% 120 ||
    '}' END,
       CASE WHEN n %% 5 > 0 THEN 'hash' END, '/cache/' || n, json_build_object(n, n), timestamp
           '2024-02-01' + n * interval '1 s'
FROM generate_series(0, least(300, %(runs)s) - 1) AS n;
INSERT INTO __reana.workflow_resource (workflow_id, resource_id, quota_used, updated)
SELECT w.id_, r.id_, CASE r.type_ WHEN 'disk' THEN 0 ELSE 240000 END, w.updated
FROM __reana.workflow AS w, __reana.resource AS r;
INSERT INTO __reana.interactive_session (id_, name, path, status, owner_id, type_)
SELECT md5('session' || n)::uuid, 'session' || n, '/' || md5('path' || n),
       (enum_range(NULL::runstatus))[1 + n %% 8], CASE WHEN n %% 10 > 0 THEN w.owner_id END, 'jupyter'
FROM generate_series(0, 39) AS n JOIN __reana.workflow AS w ON w.id_ = md5('run' || n)::uuid;
INSERT INTO __reana.workflow_session (workflow_id, session_id)
SELECT md5('run' || n)::uuid, md5('session' || n)::uuid FROM generate_series(0, 39) AS n;
INSERT INTO __reana.interactive_session_resource (session_id, resource_id, quota_used)
SELECT md5('session' || n)::uuid, md5('disk')::uuid, 0 FROM generate_series(0, 9) AS n;
INSERT INTO __reana.workspace_retention_rule (id_, workflow_id, workspace_files, retention_days, apply_on,
    status)
SELECT md5('rule' || n)::uuid, md5('run' || n)::uuid, '**/*.tmp', n,
       CASE WHEN n %% 2 > 0 THEN timestamp '2025-01-01' + n * interval '1 day' END,
       (enum_range(NULL::workspaceretentionrulestatus))[1 + n %% 5]
FROM generate_series(0, least(100, %(runs)s) - 1) AS n;
INSERT INTO __reana.workspace_retention_audit_log (workspace_retention_rule_id, timestamp, action)
SELECT id_, timestamp '2024-03-01' + step * interval '1 day', 'created'
FROM __reana.workspace_retention_rule, generate_series(0, 1) AS step;
"""

NEWER_ROWS = """
INSERT INTO __reana.user_workflow (workflow_id, user_id, access_type, message, valid_until)
SELECT w.id_, owner.id_, 'read', CASE place %% 2 WHEN 0 THEN 'look' END, CASE place %% 3 WHEN 0 THEN
    timestamp '2030-01-01' END
FROM owner, LATERAL (SELECT id_ FROM __reana.workflow ORDER BY id_ LIMIT 5 OFFSET owner.place) AS w;
INSERT INTO __reana.service (id_, name, uri, status, owner_id, type_)
SELECT md5('service' || n)::uuid, 'dask-' || n, 'tcp://dask-' || n, (enum_range(NULL::servicestatus))[1 + n
    %% 8],
       CASE WHEN n %% 2 > 0 THEN w.owner_id END, 'dask'
FROM generate_series(0, 19) AS n JOIN __reana.workflow AS w ON w.id_ = md5('run' || n)::uuid;
INSERT INTO __reana.workflow_service (workflow_id, service_id)
SELECT md5('run' || n)::uuid, md5('service' || n)::uuid FROM generate_series(0, 19) AS n;
INSERT INTO __reana.service_logs (id, service_id, event_time, log)
SELECT md5('log' || n)::uuid, md5('service' || n %% 20)::uuid, timestamptz '2024-05-01Z' + n * interval '1 s',
       jsonb_build_object('message', 'line ' || n)
FROM generate_series(0, 99) AS n;
"""


def encrypt(value: str) -> bytes:
    """Return a token's value as REANA stores it."""
    from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, StringEncryptedType

    encrypted: str = StringEncryptedType(sa.String, OLD_KEY, AesEngine, "pkcs5").process_bind_param(
        value, None
    )
    return encrypted.encode()


class ReanaDatabase:
    """A REANA database with rows of all kinds.

    :param tokens: the value of each user's active token, by user.
    """

    def __init__(self, uri: str, release: str, root: str = "/var/reana", *, runs: int = RUNS) -> None:
        self.uri, self.release = uri, release
        self.tokens: dict[uuid.UUID, str] = {}
        newer = release != "0.9.5"
        values = {"users": USERS, "runs": runs, "root": root}
        with closing(self._connect()) as connection, connection, connection.cursor() as cursor:
            cursor.execute(SCHEMA + (NEWER if newer else ""))
            cursor.execute("INSERT INTO __reana.alembic_version VALUES (%s)", (HEADS[release],))
            cursor.execute(ROWS + (NEWER_ROWS if newer else ""), values)
            cursor.execute("SELECT place, id_ FROM owner ORDER BY place")
            for number, user in cursor.fetchall():
                self._add_tokens(cursor, number, uuid.UUID(str(user)))

    def _add_tokens(self, cursor: Any, number: int, user: uuid.UUID) -> None:
        """Give a user one token of each status in turn, of some users several."""
        statuses = [["active"], ["requested"], ["revoked", "active"], ["revoked"], []][number % 5]
        for place, status in enumerate(statuses):
            value = f"value-{number}-{place}" if status != "requested" else None
            self.add_token(user, status, value, place, cursor)
        details = [
            '{"reana_admin": "x", "user_email": "ada@example.org"}',
            "null",
            '{"m": "Token: abc-def, sent"}',
        ]
        cursor.execute(
            "INSERT INTO __reana.audit_log (id_, user_id, action, details, created) VALUES"
            " (md5('audit' || %s)::uuid, %s, 'grant_token', %s, '2024-01-01')",
            (number, str(user), details[number % 3]),
        )

    def add_token(
        self, user: uuid.UUID, status: str, value: str | None, day: int = 0, cursor: Any = None
    ) -> None:
        """Add a token of a user's; an active one authenticates from now on."""
        statement = """
            INSERT INTO __reana.user_token (id_, user_id, status, type_, token, created, updated)
            VALUES (gen_random_uuid(), %s, %s, 'reana', %s, timestamp '2024-01-01' + %s * interval '1 day',
                now())
        """
        values = (str(user), status, value and encrypt(value), day)
        if cursor is None:
            self.execute(statement, *values)
        else:
            cursor.execute(statement, values)
        if status == "active" and value is not None:
            self.tokens[user] = value

    def execute(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement, commit, and return its rows."""
        with closing(self._connect()) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def measure(self, root: Path, count: int = 20) -> None:
        """Make some workspaces, and store what they take."""
        for (path,) in self.execute(
            f"SELECT workspace_path FROM __reana.workflow ORDER BY id_ LIMIT {count}"
        ):
            workspace = Path(path)
            assert workspace.is_relative_to(root)
            workspace.mkdir(parents=True, exist_ok=True)
            (workspace / "data").write_bytes(b"x" * 9000)
            used = sum(512 * place.lstat().st_blocks for place in (workspace, workspace / "data"))
            self.execute(
                "UPDATE __reana.workflow_resource SET quota_used = %s WHERE resource_id = md5('disk')::uuid"
                " AND workflow_id IN (SELECT id_ FROM __reana.workflow WHERE workspace_path = %s)",
                used,
                path,
            )

    def _connect(self) -> Any:
        url = make_url(self.uri)
        return psycopg2.connect(**url.translate_connect_args(username="user", database="dbname"), **url.query)
