"""Whether what runs for a job is removed once the job has a status."""

from __future__ import annotations

import logging

from platform_db.settings import get_settings
from platform_db.states import Status

logger = logging.getLogger(__name__)


def should_cleanup_job(status: Status) -> bool:
    """Tell whether what runs for a job is removed once it has this status.

    It is, unless ``PLATFORM_DB_KEEP_ALIVE_JOBS_WITH_STATUSES`` names the status. A name there that no status
    of this kind has is logged as a warning.
    """
    keep_alive = get_settings().keep_alive_jobs_with_statuses
    unknown = sorted(set(keep_alive) - {member.value for member in type(status)})
    if unknown:
        logger.warning(
            "PLATFORM_DB_KEEP_ALIVE_JOBS_WITH_STATUSES names no known status: %s", ", ".join(unknown)
        )
    return status.value not in keep_alive
