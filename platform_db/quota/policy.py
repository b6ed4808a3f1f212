"""When quotas are updated: by the cronjobs, when a run ends, or not."""

from __future__ import annotations

from collections.abc import Iterable

from platform_db.models import ResourceType
from platform_db.quota.resources import require_type
from platform_db.settings import get_settings


def is_periodic_update_on(override: bool = False) -> bool:
    """Tell whether the cronjobs do their work (``PLATFORM_DB_PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY``).

    :param override: do it in any case.
    """
    return override or get_settings().periodic_resource_quota_update_policy


def types_at_termination(override: Iterable[ResourceType | str] | None = None) -> frozenset[ResourceType]:
    """Return what is updated when a run ends (``PLATFORM_DB_WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY``).

    :param override: these instead.
    :raises errors.InvalidArgument: it names an unknown type.
    """
    if override is None:
        override = get_settings().workflow_termination_quota_update_policy
    return frozenset(map(require_type, override))
