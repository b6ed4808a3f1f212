"""Runs, and all that belongs to one: jobs, logs, figures, shares and retention rules."""

from __future__ import annotations

from platform_db.integrations.reana.expressions import (
    Mapping,
    by_key,
    canonical,
    is_object,
    jsonb,
    literal,
    loses_characters,
    not_before,
    parsed,
    text_of,
    utc,
)
from platform_db.integrations.reana.table import Table, of, own
from platform_db.integrations.reana.users import resources

LOST_CHARACTERS = "NUL characters or halves of surrogate pairs are taken out of its JSON"
NOT_MOVED = "its run is not moved"


def run_tables(mapping: Mapping, *, has_sharing: bool) -> list[Table]:
    """Return the tables whose keys are runs, in the order of their references."""
    workflow = _workflow(mapping)
    run = runs(mapping)
    return [
        workflow,
        _job(mapping, run),
        _log(run),
        _workflow_resource(mapping, run),
        *([_share(mapping, run)] if has_sharing else []),
        _rule(mapping, run),
        _rule_log(mapping, run),
    ]


def runs(mapping: Mapping) -> str:
    """Return the query of the runs that are moved, with what their rows take from them."""
    return _workflow(mapping).mapped(
        "w.id_, owner.id_ AS owner_id, w.created, w.updated, times.ended, state.started"
    )


def _workflow(mapping: Mapping) -> Table:
    decided = {run: owner for run, owner in mapping.owners.items() if owner is not None}
    left_out = ", ".join(f"{literal(run)}" for run, owner in mapping.owners.items() if owner is None)
    is_left_out = f"w.id_::text IN ({left_out or 'NULL'})"
    updated = utc("w.updated")
    finished, stopped = mapping.time("w.run_finished_at"), mapping.time("w.run_stopped_at")
    default_path = f"{literal(mapping.workspace_root)} || '/users/' || owner.id_ || '/workflows/' || w.id_"
    return Table(
        "workflow",
        rows=f"""__reana.workflow AS w
            CROSS JOIN LATERAL (
                SELECT coalesce(w.owner_id, CASE WHEN w.owner_id IS NULL
                    THEN {by_key(decided, "w.id_")}::uuid END)
            ) AS owner (id_)
            CROSS JOIN LATERAL (
                SELECT coalesce(w.status::text, 'created'), CASE WHEN w.status = 'running'
                    THEN coalesce({mapping.time("w.run_started_at")}, {updated})
                    ELSE {mapping.time("w.run_started_at")} END
            ) AS state (name, started)
            CROSS JOIN LATERAL (
                SELECT CASE WHEN state.name IN ('running', 'stopped') THEN NULL
                            WHEN state.name IN ('finished', 'failed') THEN coalesce({finished}, {updated})
                            ELSE {finished} END,
                       CASE WHEN state.name = 'running' THEN NULL
                            WHEN state.name = 'stopped' THEN coalesce({stopped}, {finished}, {updated})
                            ELSE {stopped} END,
                       coalesce({finished}, {stopped}, {updated})
            ) AS times (finished, stopped, ended)
            CROSS JOIN LATERAL (SELECT coalesce(w.workspace_path, {default_path})) AS given (path)
            CROSS JOIN LATERAL (SELECT {canonical("given.path")}) AS workspace (path)""",
        keys=("w.id_",),
        target=own("workflow"),
        id_="w.id_",
        columns={
            "id_": "w.id_",
            "owner_id": "owner.id_",
            "name": "w.name::text",
            "status": "state.name",
            "type_": "coalesce(w.type_, 'unknown')::text",
            "specification": jsonb("w.reana_specification"),
            "input_parameters": jsonb("w.input_parameters"),
            "operational_options": jsonb("w.operational_options"),
            "engine_specific": jsonb("w.engine_specific"),
            "complexity": "to_jsonb(w.complexity)",
            "job_progress": jsonb("w.job_progress", "'{}'"),
            "workspace_path": "workspace.path",
            "restart": "coalesce(w.restart, false)",
            "run_number_major": "w.run_number_major",
            "run_number_minor": "coalesce(w.run_number_minor, 0)",
            "run_started_at": "state.started",
            "run_finished_at": not_before("times.finished", "state.started"),
            "run_stopped_at": not_before("times.stopped", "state.started"),
            "git_ref": "w.git_ref::text",
            "git_repo": "w.git_repo::text",
            "git_provider": "w.git_provider::text",
            "launcher_url": "w.launcher_url::text",
            "created": utc("w.created"),
            "updated": updated,
        },
        left_out={f"w.owner_id IS NULL AND {is_left_out}": "it has no owner, and is left out as was decided"},
        refused={
            f"owner.id_ IS NULL AND ({is_left_out}) IS NOT TRUE": "it has no owner",
            "coalesce(w.name, '') = ''": "it has no name",
            "w.run_number_major IS NULL OR w.run_number_major < 1 OR w.run_number_minor < 0": (
                "it has no run number, or none that counts from 1"
            ),
            """w.run_number_minor IS NULL AND EXISTS (
                SELECT FROM __reana.workflow AS other
                WHERE other.owner_id = w.owner_id AND other.name = w.name
                  AND other.run_number_major = w.run_number_major
                  AND (other.run_number_minor = 0
                       OR (other.run_number_minor IS NULL AND other.id_ < w.id_)))""": (
                "another run has its number"
            ),
            "NOT starts_with(workspace.path, '/') OR strpos(workspace.path || '/', '/../') > 0": (
                "its workspace path is relative, or has .. in it"
            ),
            "octet_length(workspace.path) > 2048": "its workspace path is longer than 2048 bytes",
        },
        changed={
            "w.owner_id IS NULL": "it has the owner that was decided",
            "w.status IS NULL": "it had no status: it is created",
            "w.type_ IS NULL": "it had no type: it is unknown",
            "w.run_number_minor IS NULL": "it had no minor run number: it is 0",
            "w.workspace_path IS NULL": "it had no workspace path: it is the default one",
            "workspace.path <> w.workspace_path": "its workspace path has its canonical form",
            "w.status = 'running' AND w.run_started_at IS NULL": "it had no start: it is its last change",
            "w.status IN ('finished', 'failed') AND w.run_finished_at IS NULL": (
                "it had no end: it is its last change"
            ),
            "w.status = 'stopped' AND w.run_stopped_at IS NULL": (
                "it had no time of its stop: it is its end, or its last change"
            ),
            "w.status IN ('running', 'stopped') AND w.run_finished_at IS NOT NULL": (
                "it was not finished: its end is dropped"
            ),
            "w.status = 'running' AND w.run_stopped_at IS NOT NULL": "it runs: its stop is dropped",
            "least(times.finished, times.stopped) < state.started": (
                "its end was before its start: it is the start"
            ),
            loses_characters(
                "w.reana_specification",
                "w.input_parameters",
                "w.operational_options",
                "w.engine_specific",
                "w.job_progress",
            ): LOST_CHARACTERS,
        },
        # The last of a name comes first, so that the others leave its counter as it is.
        order="owner.id_, w.name, w.run_number_major DESC, w.run_number_minor DESC",
    )


def _job(mapping: Mapping, run: str) -> Table:
    started, finished, updated = mapping.time("j.started_at"), mapping.time("j.finished_at"), utc("j.updated")
    ended = "j.status IN ('finished', 'failed', 'stopped')"
    return Table(
        "job",
        rows=f"""__reana.job AS j LEFT JOIN ({run}) AS run ON run.id_ = j.workflow_uuid
            CROSS JOIN LATERAL (
                SELECT CASE WHEN j.status = 'running' THEN coalesce({started}, {updated}) ELSE {started} END,
                       CASE WHEN {ended} THEN coalesce({finished}, {updated}) ELSE {finished} END
            ) AS times (started, finished)
            CROSS JOIN LATERAL (
                SELECT CASE WHEN json_typeof(j.env_vars) = 'string' THEN {text_of("j.env_vars")} END OFFSET 0
            ) AS environment (text)""",
        keys=("j.workflow_uuid", "run.id_"),
        target=of("workflow", "job", "workflow_id"),
        id_="j.id_",
        columns={
            "id_": "j.id_",
            "owner_id": "run.owner_id",
            "workflow_id": "j.workflow_uuid",
            "backend_job_id": "j.backend_job_id::text",
            "compute_backend": "j.compute_backend::text",
            "job_name": "j.job_name::text",
            "status": "coalesce(j.status::text, 'created')",
            "container_image": "j.docker_img::text",
            "command": text_of("j.cmd"),
            "environment": parsed("j.env_vars", "environment.text"),
            "attributes": f"""jsonb_strip_nulls(jsonb_build_object(
                'cvmfs_mounts', j.cvmfs_mounts, 'shared_file_system', j.shared_file_system,
                'prettified_cmd', {text_of("j.prettified_cmd")}))""",
            "deleted": "coalesce(j.deleted, false)",
            "started_at": "times.started",
            "finished_at": not_before("times.finished", "times.started"),
            "created": utc("j.created"),
            "updated": updated,
        },
        refused={"run.id_ IS NULL": NOT_MOVED},
        changed={
            "j.status IS NULL": "it had no status: it is created",
            "j.status = 'running' AND j.started_at IS NULL": "it had no start: it is its last change",
            f"{ended} AND j.finished_at IS NULL": "it had no end: it is its last change",
            "times.finished < times.started": "its end was before its start: it is the start",
            f"environment.text IS NOT NULL AND NOT {is_object('environment.text')}": (
                "its environment is no JSON object: it stays the text that it was"
            ),
            loses_characters("j.cmd", "j.env_vars", "j.prettified_cmd"): LOST_CHARACTERS,
        },
    )


def _log(run: str) -> Table:
    """Return the logs of runs and of their jobs: each is one piece, of the time of its row's last change."""
    return Table(
        "log_chunk",
        rows=f"""(
                SELECT w.id_ AS workflow_id, NULL::uuid AS job_id, w.updated, w.logs
                FROM __reana.workflow AS w WHERE w.logs <> ''
                UNION ALL
                SELECT j.workflow_uuid, j.id_, j.updated, j.logs FROM __reana.job AS j WHERE j.logs <> ''
            ) AS log JOIN ({run}) AS run ON run.id_ = log.workflow_id""",
        keys=("log.workflow_id", "run.id_"),
        target=of("workflow", "log_chunk", "workflow_id"),
        id_="coalesce(log.job_id, log.workflow_id)",
        columns={
            "owner_id": "run.owner_id",
            "workflow_id": "log.workflow_id",
            "job_id": "log.job_id",
            "at": utc("log.updated"),
            "data": "convert_to(log.logs, 'UTF8')",
        },
        compared={"data": "md5(row.data)"},
        order="log.workflow_id, log.updated",
    )


SIZES = """
    INSERT INTO platform.log_size (owner_id, workflow_id, bytes_, first_number, last_number)
    SELECT root.owner_id, root.id_, sum(octet_length(row.data)), min(row.number), max(row.number)
    FROM {target} WHERE root.id_ = ANY(%(keys)s::uuid[]) GROUP BY root.owner_id, root.id_
    ON CONFLICT (owner_id, workflow_id) DO UPDATE
    SET bytes_ = excluded.bytes_, first_number = excluded.first_number, last_number = excluded.last_number
"""


def _workflow_resource(mapping: Mapping, run: str) -> Table:
    """Return what workspaces take; processing time follows from the times of runs."""
    return Table(
        "workflow_resource",
        rows=f"""__reana.workflow_resource AS r JOIN ({resources(mapping)}) AS resource
            ON resource.source_id = r.resource_id
            JOIN __reana.resource AS kind ON kind.id_ = r.resource_id AND kind.type_ = 'disk'
            LEFT JOIN ({run}) AS run ON run.id_ = r.workflow_id""",
        keys=("r.workflow_id", "run.id_"),
        target=of("workflow", "workflow_resource", "workflow_id", OF_DISK),
        id_="r.workflow_id || ' ' || resource.id_",
        columns={
            "owner_id": "run.owner_id",
            "workflow_id": "r.workflow_id",
            "resource_id": "resource.id_",
            "quota_used": "greatest(0, coalesce(r.quota_used, 0))",
            "measured_at": utc("r.updated"),
            "method": "'du'::text",
        },
        refused={"run.id_ IS NULL": NOT_MOVED},
        changed={"r.quota_used < 0": "it was below 0: it is 0"},
    )


OF_DISK = "EXISTS (SELECT FROM platform.resource WHERE resource.id_ = own.resource_id AND type_ = 'disk')"


def _share(mapping: Mapping, run: str) -> Table:
    return Table(
        "user_workflow",
        rows=f"__reana.user_workflow AS s LEFT JOIN ({run}) AS run ON run.id_ = s.workflow_id",
        keys=("s.workflow_id", "run.id_"),
        target=of("workflow", "user_workflow", "workflow_id"),
        id_="s.workflow_id || ' ' || s.user_id",
        columns={
            "owner_id": "run.owner_id",
            "workflow_id": "s.workflow_id",
            "user_id": "s.user_id",
            "access_type": "s.access_type::text",
            "message": "s.message::text",
            "valid_until": mapping.time("s.valid_until"),
        },
        refused={"run.id_ IS NULL": NOT_MOVED},
        left_out={"run.owner_id = s.user_id": "it shares a run with its own owner"},
    )


def _rule(mapping: Mapping, run: str) -> Table:
    day_after = "date_trunc('day', run.ended AT TIME ZONE 'UTC') + make_interval(days => state.days + 1)"
    return Table(
        "workspace_retention_rule",
        rows=f"""__reana.workspace_retention_rule AS r LEFT JOIN ({run}) AS run ON run.id_ = r.workflow_id
            CROSS JOIN LATERAL (
                SELECT CASE r.status WHEN 'pending' THEN 'active' ELSE r.status::text END,
                       least(r.retention_days, 36500)
            ) AS state (name, days)""",
        keys=("r.workflow_id", "run.id_"),
        target=of("workflow", "workspace_retention_rule", "workflow_id"),
        id_="r.id_",
        columns={
            "id_": "r.id_",
            "owner_id": "run.owner_id",
            "workflow_id": "r.workflow_id",
            "workspace_files": "r.workspace_files::text",
            "retention_days": "state.days",
            "apply_on": f"""CASE WHEN state.name = 'active' THEN coalesce(
                {mapping.time("r.apply_on")}, ({day_after}) AT TIME ZONE 'UTC')
                ELSE {mapping.time("r.apply_on")} END""",
            "status": "state.name",
            "created": utc("run.created"),
            "updated": utc("run.updated"),
        },
        refused={"run.id_ IS NULL": NOT_MOVED, "r.retention_days < 0": "its days are below 0"},
        changed={
            "r.status = 'pending'": "it was pending: it is active, and applied by the next job",
            "r.retention_days > 36500": "it had more days than 36500",
            "state.name = 'active' AND r.apply_on IS NULL": (
                "it was active without a date: that is so many days after the end of the run"
            ),
        },
    )


def _rule_log(mapping: Mapping, run: str) -> Table:
    return Table(
        "workspace_retention_audit_log",
        rows=f"""__reana.workspace_retention_audit_log AS l
            JOIN __reana.workspace_retention_rule AS r ON r.id_ = l.workspace_retention_rule_id
            LEFT JOIN ({run}) AS run ON run.id_ = r.workflow_id""",
        keys=("r.workflow_id", "run.id_"),
        target="""platform.workflow AS root CROSS JOIN LATERAL (
            SELECT own.ctid AS place, own.* FROM platform.workspace_retention_rule AS rule
            JOIN platform.workspace_retention_audit_log AS own
            ON own.owner_id = rule.owner_id AND own.workspace_retention_rule_id = rule.id_
            WHERE rule.owner_id = root.owner_id AND rule.workflow_id = root.id_ OFFSET 0) AS row""",
        id_="l.workspace_retention_rule_id || ' ' || l.timestamp",
        columns={
            "owner_id": "run.owner_id",
            "workspace_retention_rule_id": "l.workspace_retention_rule_id",
            "status": "l.action::text",
            "retention_days": "least(r.retention_days, 36500)",
            "at": mapping.time("l.timestamp"),
        },
        refused={
            "run.id_ IS NULL": NOT_MOVED,
            "r.retention_days < 0": "its rule is not moved",
        },
        order="l.workspace_retention_rule_id, l.timestamp, l.action",
    )
