"""What stands beside runs: cached results of jobs, interactive sessions and services."""

from __future__ import annotations

from platform_db.integrations.reana.expressions import Mapping, utc
from platform_db.integrations.reana.runs import NOT_MOVED, OF_DISK, runs
from platform_db.integrations.reana.table import Table, of, own
from platform_db.integrations.reana.users import resources


def cache_tables(mapping: Mapping) -> list[Table]:
    """Return the table whose keys are cached results."""
    return [
        Table(
            "job_cache",
            rows=f"""(
                SELECT c.*, run.id_ AS run_id, run.owner_id, row_number() OVER (
                    PARTITION BY run.owner_id, c.parameters, c.workspace_hash, c.result_path IS NULL
                    ORDER BY c.updated DESC, c.id_) AS place
                FROM __reana.job_cache AS c JOIN __reana.job AS j ON j.id_ = c.job_id
                LEFT JOIN ({runs(mapping)}) AS run ON run.id_ = j.workflow_uuid
            ) AS c""",
            keys=("c.id_",),
            target=own("job_cache"),
            id_="c.id_",
            columns={
                "id_": "c.id_",
                "owner_id": "c.owner_id",
                "job_id": "c.job_id",
                "parameters": "c.parameters::text",
                "workspace_hash": "c.workspace_hash::text",
                "result_path": "c.result_path::text",
                "created": utc("c.created"),
                "updated": utc("c.updated"),
            },
            refused={"c.run_id IS NULL": NOT_MOVED},
            left_out={
                "c.parameters IS NULL OR c.workspace_hash IS NULL OR c.result_path IS NULL": (
                    "its job never completed it"
                ),
                "c.run_id IS NOT NULL AND c.place > 1": "a newer result stands for the same job",
            },
        )
    ]


def session_tables(mapping: Mapping) -> list[Table]:
    """Return the tables whose keys are interactive sessions."""
    run = runs(mapping)
    rows = f"""__reana.interactive_session AS s
        LEFT JOIN __reana.workflow_session AS link ON link.session_id = s.id_
        LEFT JOIN ({run}) AS run ON run.id_ = link.workflow_id
        CROSS JOIN LATERAL (SELECT coalesce(s.owner_id, run.owner_id)) AS owner (id_)"""
    updated = utc("s.updated")
    session = Table(
        "interactive_session",
        rows=rows,
        keys=("s.id_",),
        target=own("interactive_session"),
        id_="s.id_",
        columns={
            "id_": "s.id_",
            "owner_id": "owner.id_",
            "name": "coalesce(s.name, '')::text",
            "path": "coalesce(s.path, '/' || s.id_)",
            "status": "s.status::text",
            "type_": "s.type_::text",
            "run_started_at": f"CASE WHEN s.status = 'running' THEN {updated} END",
            "run_finished_at": f"CASE WHEN s.status IN ('finished', 'failed') THEN {updated} END",
            "run_stopped_at": f"CASE WHEN s.status = 'stopped' THEN {updated} END",
            "created": utc("s.created"),
            "updated": updated,
        },
        refused={
            "owner.id_ IS NULL": "it has no owner",
            """s.status <> 'deleted' AND EXISTS (
                SELECT FROM __reana.interactive_session AS other
                WHERE other.path = s.path AND other.owner_id IS NOT DISTINCT FROM s.owner_id
                  AND other.status <> 'deleted' AND (other.created, other.id_) > (s.created, s.id_))""": (
                "a newer session of its owner has its path"
            ),
        },
        changed={
            "s.owner_id IS NULL": "it has the owner of its run",
            "s.path IS NULL": "it had no path: it is its id",
            "s.status IN ('running', 'finished', 'failed', 'stopped')": (
                "REANA keeps no times of sessions: the time of its status is its last change"
            ),
        },
    )
    moved = session.mapped("s.id_, owner.id_ AS owner_id")
    return [
        session,
        Table(
            "interactive_session_resource",
            rows=f"""__reana.interactive_session_resource AS r JOIN ({resources(mapping)}) AS resource
                ON resource.source_id = r.resource_id
                JOIN __reana.resource AS kind ON kind.id_ = r.resource_id AND kind.type_ = 'disk'
                LEFT JOIN ({moved}) AS session ON session.id_ = r.session_id""",
            keys=("r.session_id", "session.id_"),
            target=of("interactive_session", "interactive_session_resource", "session_id", OF_DISK),
            id_="r.session_id || ' ' || resource.id_",
            columns={
                "owner_id": "session.owner_id",
                "session_id": "r.session_id",
                "resource_id": "resource.id_",
                "quota_used": "greatest(0, coalesce(r.quota_used, 0))",
                "measured_at": utc("r.updated"),
            },
            refused={"session.id_ IS NULL": "its session is not moved"},
        ),
        _link("session", "interactive_session", moved, run),
    ]


def service_tables(mapping: Mapping) -> list[Table]:
    """Return the tables whose keys are services."""
    run = runs(mapping)
    service = Table(
        "service",
        rows=f"""__reana.service AS s
            LEFT JOIN __reana.workflow_service AS link ON link.service_id = s.id_
            LEFT JOIN ({run}) AS run ON run.id_ = link.workflow_id
            CROSS JOIN LATERAL (SELECT coalesce(s.owner_id, run.owner_id)) AS owner (id_)
            LEFT JOIN __reana.user_ AS u ON u.id_ = owner.id_
            CROSS JOIN LATERAL (
                SELECT {utc("coalesce(run.created, u.created)")}, {utc("coalesce(run.updated, u.created)")}
            ) AS times (created, updated)""",
        keys=("s.id_",),
        target=own("service"),
        id_="s.id_",
        columns={
            "id_": "s.id_",
            "owner_id": "owner.id_",
            "name": "coalesce(s.name, s.id_::text)::text",
            "uri": "s.uri",
            "status": "s.status::text",
            "type_": "s.type_::text",
            "run_started_at": "CASE WHEN s.status = 'running' THEN times.updated END",
            "run_finished_at": "CASE WHEN s.status IN ('finished', 'failed') THEN times.updated END",
            "run_stopped_at": "CASE WHEN s.status = 'stopped' THEN times.updated END",
            "created": "times.created",
            "updated": "times.updated",
        },
        refused={
            "owner.id_ IS NULL": "it has no owner",
            """s.status <> 'deleted' AND EXISTS (
                SELECT FROM __reana.service AS other
                WHERE other.name = s.name AND other.owner_id IS NOT DISTINCT FROM s.owner_id
                  AND other.status <> 'deleted' AND other.id_ > s.id_)""": (
                "another service of its owner has its name"
            ),
        },
        changed={
            "s.owner_id IS NULL": "it has the owner of its run",
            "true": "REANA keeps no times of services: they are those of its run",
        },
    )
    moved = service.mapped("s.id_, owner.id_ AS owner_id")
    return [
        service,
        Table(
            "service_log",
            rows=f"__reana.service_logs AS l LEFT JOIN ({moved}) AS service ON service.id_ = l.service_id",
            keys=("l.service_id", "service.id_"),
            target=of("service", "service_log", "service_id"),
            id_="l.id",
            columns={
                "owner_id": "service.owner_id",
                "service_id": "l.service_id",
                "at": "l.event_time",
                "data": "convert_to(l.log::text || E'\\n', 'UTF8')",
            },
            refused={"service.id_ IS NULL": "its service is not moved"},
            order="l.service_id, l.event_time, l.id",
        ),
        _link("service", "service", moved, run),
    ]


def _link(name: str, table: str, moved: str, run: str) -> Table:
    return Table(
        f"workflow_{name}",
        rows=f"""__reana.workflow_{name} AS link LEFT JOIN ({moved}) AS linked ON linked.id_ = link.{name}_id
            LEFT JOIN ({run}) AS run ON run.id_ = link.workflow_id""",
        keys=(f"link.{name}_id", "linked.id_"),
        target=of(table, f"workflow_{name}", f"{name}_id"),
        id_=f"link.{name}_id",
        columns={
            "owner_id": "linked.owner_id",
            "workflow_id": "link.workflow_id",
            f"{name}_id": f"link.{name}_id",
        },
        refused={"linked.id_ IS NULL": f"its {name} is not moved"},
        left_out={
            "link.workflow_id IS NULL": "it links with no run",
            "link.workflow_id IS NOT NULL AND run.id_ IS NULL": NOT_MOVED,
            "run.owner_id <> linked.owner_id": "it links with a run of another owner",
        },
    )
