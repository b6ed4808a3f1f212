"""REANA's settings, and their translation into platform-db's.

What the environment says as ``PLATFORM_DB_…`` wins over what follows from a setting of REANA's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os

import sqlalchemy as sa

from platform_db import settings
from platform_db.database.url import DRIVER


def _number(name: str, default: int) -> int:
    return int(float(os.environ.get(name, default)))


def _words(name: str) -> list[str]:
    return [word for word in os.environ.get(name, "").split(",") if word]


def _switch(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("y", "yes", "t", "true", "on", "1")


DB_NAME = os.environ.get("REANA_DB_NAME", "reana")
DB_USERNAME = os.environ.get("REANA_DB_USERNAME", "reana")
DB_PASSWORD = os.environ.get("REANA_DB_PASSWORD", "reana")
DB_HOST = os.environ.get("REANA_DB_HOST") or (
    f"{os.environ.get('REANA_COMPONENT_PREFIX', 'reana')}-db"
    f".{os.environ.get('REANA_INFRASTRUCTURE_KUBERNETES_NAMESPACE', 'default')}"
)
DB_PORT = os.environ.get("REANA_DB_PORT", "5432")
DB_SECRET_KEY = os.environ.get("REANA_SECRET_KEY")
"""Any text. There is no default: a known one protects nothing."""

SQLALCHEMY_DATABASE_URI = os.environ.get("REANA_SQLALCHEMY_DATABASE_URI") or sa.URL.create(
    DRIVER, DB_USERNAME, DB_PASSWORD, DB_HOST, int(DB_PORT), DB_NAME
).render_as_string(hide_password=False)
SQLALCHEMY_MAX_OVERFLOW = _number("SQLALCHEMY_MAX_OVERFLOW", 2)
SQLALCHEMY_POOL_PRE_PING = _switch("SQLALCHEMY_POOL_PRE_PING")
SQLALCHEMY_POOL_RECYCLE = _number("SQLALCHEMY_POOL_RECYCLE", 3600)
SQLALCHEMY_POOL_SIZE = _number("SQLALCHEMY_POOL_SIZE", 5)
SQLALCHEMY_POOL_TIMEOUT = _number("SQLALCHEMY_POOL_TIMEOUT", 30)

DEFAULT_QUOTA_RESOURCES = {"cpu": "processing time", "disk": "shared storage"}
"""The names of the default resources."""
DEFAULT_QUOTA_LIMITS = {
    "cpu": _number("REANA_DEFAULT_QUOTA_CPU_LIMIT", 0),
    "disk": _number("REANA_DEFAULT_QUOTA_DISK_LIMIT", 0),
}
"""Milliseconds and bytes; 0 is unlimited."""
WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY = _words("REANA_WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY")
"""What to count when a run ends."""
PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY = _switch("REANA_PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY")
"""Whether the cronjob counts."""

REANA_MAX_CONCURRENT_BATCH_WORKFLOWS = _number("REANA_MAX_CONCURRENT_BATCH_WORKFLOWS", 30)
REANA_RUNTIME_KUBERNETES_KEEP_ALIVE_JOBS_WITH_STATUSES = _words(
    "REANA_RUNTIME_KUBERNETES_KEEP_ALIVE_JOBS_WITH_STATUSES"
)
SHARED_VOLUME_PATH = os.environ.get("SHARED_VOLUME_PATH", "/var/reana")


def _workspace_paths() -> list[str]:
    """Return where workspaces may lie: the mount points of ``WORKSPACE_PATHS``, then the shared volume."""
    paths = json.loads(os.environ.get("WORKSPACE_PATHS", "{}"))
    mounts = paths.values() if isinstance(paths, dict) else (path.rpartition(":")[2] for path in paths)
    return list(dict.fromkeys([*mounts, SHARED_VOLUME_PATH]))


WORKSPACE_ROOTS = _workspace_paths()
"""New workspaces go to the first one."""


def derived_key(secret: str) -> str:
    """Return the key of 32 bytes, in base64, that any text of an operator's stands for."""
    return base64.b64encode(hashlib.sha256(secret.encode()).digest()).decode()


def _translated() -> dict[str, object]:
    """Return platform-db's settings by their names without the prefix; None leaves platform-db's default."""
    named = os.environ.keys() & {"PLATFORM_DB_URI", "PLATFORM_DB_URI_FILE", "PLATFORM_DB_HOST"}
    return {
        "URI": None if named else SQLALCHEMY_DATABASE_URI,
        "SECRET_KEY": DB_SECRET_KEY and derived_key(DB_SECRET_KEY),
        "MAX_OVERFLOW": SQLALCHEMY_MAX_OVERFLOW,
        "POOL_PRE_PING": os.environ.get("SQLALCHEMY_POOL_PRE_PING"),
        "POOL_RECYCLE": SQLALCHEMY_POOL_RECYCLE,
        "POOL_SIZE": SQLALCHEMY_POOL_SIZE,
        "POOL_TIMEOUT": SQLALCHEMY_POOL_TIMEOUT,
        "DEFAULT_QUOTA_CPU_LIMIT": DEFAULT_QUOTA_LIMITS["cpu"] or None,
        "DEFAULT_QUOTA_DISK_LIMIT": DEFAULT_QUOTA_LIMITS["disk"] or None,
        "WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY": ",".join(WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY),
        "PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY": PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY,
        "MAX_CONCURRENT_WORKFLOWS": REANA_MAX_CONCURRENT_BATCH_WORKFLOWS,
        "SHARED_VOLUME_PATH": SHARED_VOLUME_PATH,
        "WORKSPACE_ROOT": ",".join(WORKSPACE_ROOTS),
        "APPLICATION_NAME": "reana",
    }


for _name, _value in _translated().items():
    _variable = f"PLATFORM_DB_{_name}"
    if _value is not None and not os.environ.keys() & {_variable, f"{_variable}_FILE"}:
        os.environ[_variable] = str(_value)
settings.reset_settings()
