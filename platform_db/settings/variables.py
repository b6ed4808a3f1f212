"""Every setting, with its default and its unit.

:mod:`platform_db.settings.environment` reads them.
"""

from __future__ import annotations

import posixpath
import uuid
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from platform_db import errors
from platform_db.bounds import LARGEST_AMOUNT
from platform_db.settings.environment import Environment
from platform_db.settings.pools import Purpose
from platform_db.settings.secret_keys import KEY_HINT, decode_key, split_keys

LARGEST_INTEGER = 2**31 - 1  # of the server and the driver
LONGEST_SECONDS = 86_400 * 365

# Of runs and jobs. The settings import no room above them; a test compares.
STATUSES = ("created", "queued", "pending", "running", "finished", "failed", "stopped", "deleted")


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _canonical_path(path: str) -> str:
    """Return a directory's path in the form that workspaces' paths have, so that the two can be compared."""
    if not path.startswith("/"):
        raise ValueError("a directory has to be given by its absolute path")
    return "/" + posixpath.normpath(path).lstrip("/")


def _require_known(value: tuple[str, ...], what: str, known: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := sorted(set(value).difference(known)):
        raise ValueError(f"unknown {what} {', '.join(unknown)}; choose from {', '.join(known)}")
    return value


Number = Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]
Amount = Annotated[int | None, Field(ge=0, le=LARGEST_AMOUNT)]
Limit = Annotated[int | None, Field(ge=0, le=LARGEST_INTEGER)]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_SECONDS)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_split)]
Directory = Annotated[str, AfterValidator(_canonical_path)]


class Settings(BaseSettings):
    """The settings of one process, validated and frozen."""

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True, extra="ignore")

    uri: SecretStr | None = None
    """SQLAlchemy URL of the database, or ``embedded:`` / ``embedded:///path``."""
    host: str | None = None
    """Server to connect to when no URI is set."""
    port: int = Field(5432, ge=1, le=65535)
    """Port of that server."""
    name: str = "platform"
    """Database name."""
    username: str | None = None
    """Login."""
    password: SecretStr | None = None
    """Password of the login."""
    migration_uri: SecretStr | None = None
    """Direct URL for migrations where the other one goes through a pooler."""
    secret_key: SecretStr | None = None
    """Secret keys, newest first, comma-separated: 32 random bytes in base64 each."""

    audit_signing_key: SecretStr | None = None
    """Ed25519 key that signs the seals of the audit log: 32 random bytes in base64."""
    audit_verify_keys: Texts = ()
    """Ed25519 public keys that seals may be signed with, in base64, comma-separated."""

    pool: Purpose = "service"
    """What this process is there for, which says how many connections it keeps and may have:
    ``service`` 5 and 15, ``job`` 1 and 3, ``cron`` 1 and 5; ``init`` closes each after its use."""
    pool_size: int | None = Field(None, ge=1, le=10_000)
    """Connections kept open per process, in place of what ``pool`` says."""
    max_overflow: int | None = Field(None, ge=-1, le=10_000)
    """Connections beyond these, in place of what ``pool`` says; -1 is unlimited. ``init`` then keeps one."""
    pool_timeout: Seconds = 30.0
    """Seconds to wait for a free connection."""
    pool_recycle: int = Field(3600, ge=-1, le=LONGEST_SECONDS)
    """Seconds after which a connection is renewed; -1 is never."""
    pool_pre_ping: bool = True
    """Test a connection before each use."""
    connect_timeout: int = Field(10, ge=1, le=86_400)
    """Seconds to wait for a new connection."""
    network_timeout: int = Field(60, ge=0, le=86_400)
    """Seconds after which a connection whose other end has gone silent is given up;
    0 leaves that to the operating system."""
    statement_timeout: Number = 0
    """Milliseconds a statement may take; 0 is unlimited."""
    lock_timeout: Number = 0
    """Milliseconds to wait for a lock; 0 is unlimited."""
    idle_in_transaction_timeout: Number = 0
    """Milliseconds a transaction may idle; 0 is unlimited."""
    connection_options: bool = True
    """Send the timeouts as connection options; otherwise, and behind a pooler, each transaction sets them."""
    log_format: Literal["text", "json"] = "text"
    """How the commands write their log: ``text``, or ``json``, an object a line."""
    application_name: str = "platform-db"
    """Shown in ``pg_stat_activity``."""
    role_prefix: str = Field("platform", pattern="^[a-z_][a-z0-9_]{0,52}$")
    """Begins the names of the database's roles, such as ``platform_service``."""
    # Less than deadlock_timeout, a second: where two wait for each other, the migration gives way.
    migration_lock_timeout: Number = 500
    """Milliseconds that a migration waits for a table, and others behind it, before it steps back."""
    migration_wait: Seconds = 600.0
    """Seconds that a migration waits for another one to finish, and tries to get its tables."""

    default_quota_cpu_limit: Amount = None
    """Milliseconds of CPU that a new user may use; unset is unlimited, 0 is none."""
    default_quota_disk_limit: Amount = None
    """Bytes of disk that a new user may use; unset is unlimited, 0 is none."""
    default_quota_database_limit: Amount = None
    """Bytes that the database may store for a new user; unset is unlimited, 0 is none."""
    default_quota_cpu_period_reset_months: int | None = Field(None, ge=1, le=1200)
    """Months after which a new user's CPU quota starts again; unset is never."""
    workflow_termination_quota_update_policy: Annotated[
        Texts, AfterValidator(partial(_require_known, what="quota type", known=("cpu", "disk")))
    ] = ("cpu", "disk")
    """Quota types to update when a run ends, comma-separated; unset is all, empty is none."""
    periodic_resource_quota_update_policy: bool = True
    """Whether the quota cronjobs do their work."""
    max_concurrent_workflows: Number = 30
    """Pending and running runs per user at which their priority is lowest."""
    queue_concurrent_runs: Limit = None
    """Pending and running runs that the queue allows an owner without an own limit;
    unset is unlimited, 0 is none."""
    queue_starts_per_minute: Limit = None
    """Runs of an owner without an own limit that the queue hands out a minute;
    unset is unlimited, 0 is none."""
    keep_alive_jobs_with_statuses: Annotated[
        Texts, AfterValidator(partial(_require_known, what="status", known=STATUSES))
    ] = ()
    """Statuses whose jobs are not cleaned up, comma-separated."""
    log_limit: int = Field(100 * 1024**2, ge=0, le=LARGEST_AMOUNT)
    """Bytes that a run and its jobs may log; 0 is none."""
    result_limit: int = Field(100 * 1024**2, ge=0, le=LARGEST_INTEGER)
    """Bytes that a result of a run or job may have; 0 is none."""
    result_database_limit: int = Field(1024**2, ge=0, le=LARGEST_INTEGER)
    """Bytes up to which the database stores a result; a larger one is a file in the run's workspace."""
    job_cache_limit: Number = 10_000
    """Results that each user keeps in the job cache; 0 is none."""
    workspace_root: Annotated[tuple[Directory, ...], Field(min_length=1), BeforeValidator(_split)] = (
        "/var/platform",
    )
    """Directories that hold the users' workspaces, comma-separated; new ones go to the first."""
    shared_volume_path: Directory | None = None
    """Mount point of the shared volume; relative workspace paths start there."""
    workflow_id: uuid.UUID | None = None
    """Id of the run that this process is part of: executions of redun's belong to it."""
    watcher_hold_days: int = Field(90, ge=0, le=36_500)
    """Days that a watcher of events which does not move keeps what it has not seen from being pruned."""
    missing_workspaces_limit: int = Field(20, ge=0, le=100)
    """Percentage of workspaces beyond which missing ones stop the disk job; 100 is no limit."""

    @field_validator("secret_key")
    @classmethod
    def _usable_keys(cls, value: SecretStr | None) -> SecretStr | None:
        # Here and not at the first use of a secret, which may come long after everything seemed fine.
        for position, key in enumerate(split_keys(value.get_secret_value() if value else ""), start=1):
            try:
                decode_key(key)
            except ValueError as error:
                message = f"secret key number {position} is {error}"
                raise errors.SecretKeyError(message, hint=KEY_HINT) from None
        return value

    @field_validator("role_prefix")
    @classmethod
    def _not_the_servers(cls, value: str) -> str:
        if f"{value}_".startswith("pg_"):
            raise ValueError("PostgreSQL keeps role names that begin with pg_ for itself")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *others: PydanticBaseSettingsSource,
        **more: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls)
