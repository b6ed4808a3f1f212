"""Whether what runs for a job is removed once the job has a status."""

from __future__ import annotations

from platform_db.settings import get_settings
from platform_db.states import Status


def should_cleanup_job(status: Status | str) -> bool:
    """Tell whether what runs for a job is removed once it has this status.

    It is, unless ``PLATFORM_DB_KEEP_ALIVE_JOBS_WITH_STATUSES`` names the status.

    :param status: a status, or its name.
    """
    return str(status) not in get_settings().keep_alive_jobs_with_statuses
