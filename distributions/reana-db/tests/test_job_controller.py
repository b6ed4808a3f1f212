"""What REANA's job controller does: jobs, their logs and statuses, and the cache of their results."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from reana_db import models
from reana_db.models import Job, JobCache, JobStatus, RunStatus, Workflow


@pytest.fixture
def run(create: Callable[..., Any]) -> Any:
    return create(status=RunStatus.running)


@pytest.fixture
def job(session: Any, run: Any) -> Job:
    job = Job(
        backend_job_id="reana-run-job-1",
        workflow_uuid=str(run.id_),
        status=JobStatus.created,
        compute_backend="kubernetes",
        cvmfs_mounts="",
        shared_file_system=True,
        docker_img="docker.io/library/busybox",
        cmd=json.dumps("echo hello"),
        env_vars=json.dumps({"REANA_WORKSPACE": "/tmp"}),
        deleted=False,
        job_name="hello",
        prettified_cmd="echo hello",
    )
    session.add(job)
    session.commit()
    return job


def test_a_job_is_stored(session: Any, run: Any, job: Any) -> None:
    session.expire_all()

    assert session.query(Job).filter_by(workflow_uuid=str(run.id_), status=JobStatus.created).all() == [job]
    assert job.workflow_uuid == run.id_
    assert (job.docker_img, job.cmd) == ("docker.io/library/busybox", '"echo hello"')
    assert json.loads(job.env_vars) == {"REANA_WORKSPACE": "/tmp"}
    assert (job.cvmfs_mounts, job.shared_file_system, job.prettified_cmd) == ("", True, "echo hello")
    assert run.jobs == [job]


def test_platform_db_reads_the_environment_as_an_object(job: Any) -> None:
    assert job.environment == {"REANA_WORKSPACE": "/tmp"}


def test_a_jobs_status_and_logs_are_updated(session: Any, job: Any) -> None:
    for status in ("running", "finished"):
        session.query(Job).filter_by(id_=str(job.id_)).one().status = JobStatus[status]
        session.commit()
    for logs in ("first\n", "first\nsecond\n"):
        assert session.query(Job).filter_by(id_=str(job.id_)).update({"logs": logs}) == 1
        session.commit()

    assert job.status == JobStatus.finished
    assert job.started_at <= job.finished_at
    assert job.logs == "first\nsecond\n"


def test_the_controller_adds_to_a_runs_log(session: Any, run: Any) -> None:
    for message in ("first", "second"):
        workflow = session.query(Workflow).filter_by(id_=str(run.id_)).one_or_none()
        workflow.logs += "\n" + message
        session.commit()

    assert run.logs == "\nfirst\nsecond"


def test_a_result_is_cached_when_its_job_has_finished(session: Any, job: Any) -> None:
    prepared, job_id = JobCache(), str(job.id_)
    prepared.job_id = job_id
    prepared.access_times = {"data.csv": 1.5}
    session.add(prepared)
    session.commit()
    session.remove()  # Another service completes it.
    assert session.query(JobCache).filter_by(parameters="p", workspace_hash="h").first() is None

    cached = session.query(JobCache).filter_by(job_id=job_id).first()
    assert list(cached.access_times) == ["data.csv"]
    cached.parameters, cached.result_path, cached.workspace_hash = "p", "/archive", "h"
    session.add(cached)
    session.commit()

    found = session.query(JobCache).filter_by(parameters="p", workspace_hash="h").first()
    assert (found.result_path, str(found.job_id)) == ("/archive", job_id)


@pytest.mark.parametrize("status", [JobStatus.failed, "failed"])
def test_jobs_are_kept_by_their_status(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: Any
) -> None:
    kept = "REANA_RUNTIME_KUBERNETES_KEEP_ALIVE_JOBS_WITH_STATUSES"
    monkeypatch.setattr(models, kept, ["failed", "faild"])

    assert not JobStatus.should_cleanup_job(status)
    assert JobStatus.should_cleanup_job("finished")
    assert "faild" in caplog.text
