"""Every error that platform-db raises, with its exit code.

The first line of a class's docstring is its default message. An error carries its facts as attributes,
``code`` (a stable word for programs), ``exit_code`` (for the command line), ``http_status`` (for a service)
and ``hint`` (what to do). From Python 3.11 on a traceback shows the hint below the message. No error carries
a secret.

========= =======================================================
Exit code Meaning
========= =======================================================
0         fine
1         the command failed
2         wrong usage
3         no database is configured, or a setting is invalid
4         the database is unreachable, or takes no writes
5         the database was never migrated
6         the database is behind the code
7         the database is ahead of the code
8         another run of the same job is going on
9         the job ended, but some items failed
10        no such user, workflow, job or other row
11        refused: the stored state does not allow it
12        a secret key is missing or wrong
13        the embedded database cannot be used
14        the models and the database differ
15        the audit log or its seals were changed
16        a database role or its privileges are missing
17        the storage of workspaces is missing
18        rows contradict each other, or objects differ
19        a pooler stands between a migration and the database
20        other sessions keep a migration from its tables
21        the database has no Citus, or Citus has no nodes
130       interrupted by Ctrl-C (SIGINT)
143       terminated (SIGTERM)
========= =======================================================
"""

from __future__ import annotations

import importlib
import inspect
import re
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

TOKEN_PREFIX = "pdb_"  # noqa: S105 - not a token

# A value that platform-db made (:mod:`platform_db.crypto.token_format`).
_TOKEN = re.compile(rf"{TOKEN_PREFIX}[a-z][0-9A-Za-z]{{49}}")


def hide_tokens(text: str) -> str:
    """Return the text with ``pdb_…`` in place of tokens' values."""
    return _TOKEN.sub(f"{TOKEN_PREFIX}…", text) if TOKEN_PREFIX in text else text


# Options of libpq that must stay secret, beside the password (``passfile`` and ``sslkey`` are paths).
SECRET_OPTIONS = ("sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")

# Up to the last @ of the word, for a password may have some.
_URL_PASSWORD = re.compile(r"(://[^\s:/@]*:)\S*@")
_URL_OPTION = re.compile(rf"([?&](?:password|{'|'.join(SECRET_OPTIONS)})=)[^&\s]*")


def hide_secrets_in(text: str) -> str:
    """Return the text without tokens' values, and without what is secret in its URLs."""
    if "://" in text:
        text = _URL_OPTION.sub(r"\1...", _URL_PASSWORD.sub(r"\1...@", text))
    return hide_tokens(text)


class PlatformDBError(Exception):
    """platform-db could not do what was asked."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    hint: str | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Give a class that names no code one from its own name: ``user_exists`` for ``UserExists``."""
        super().__init_subclass__(**options)
        if "code" not in vars(cls):
            cls.code = re.sub(r"\B(?=[A-Z])", "_", cls.__name__.removesuffix("Error")).lower()

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        """Take the docstring's first line for the message, and the class's hint, where none is given."""
        if message:
            message = hide_tokens(message)  # The caller gave a token's value as an id or a name.
        super().__init__(message or (inspect.getdoc(type(self)) or "").partition("\n")[0])
        if hint is not None:
            self.hint = hint
        if self.hint is not None:
            self.__notes__ = [f"hint: {self.hint}"]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the constructor's arguments: an error with facts has an attribute for each of them."""
        names = list(inspect.signature(type(self)).parameters)
        if names[0] == "message":
            return super().__reduce__()  # type: ignore[return-value]
        return type(self), tuple(getattr(self, name) for name in names)


def exit_codes() -> dict[int, str]:
    """Return every exit code with its meaning, as the table above lists them."""
    rows = (line.partition(" ") for line in (__doc__ or "").splitlines() if line[:1].isdigit())
    return {int(code): meaning.strip() for code, _, meaning in rows}


class NotConfigured(PlatformDBError):
    """No database is configured."""

    exit_code = 3
    hint = (
        "set PLATFORM_DB_URI (postgresql://…, or embedded: for a private one), "
        "or PLATFORM_DB_HOST with PLATFORM_DB_NAME, PLATFORM_DB_USERNAME and PLATFORM_DB_PASSWORD"
    )


class InvalidSetting(PlatformDBError):
    """A setting has a value that cannot be used."""

    exit_code = 3
    hint = "correct what the message names; the configuration page lists every variable with its unit"


class Unreachable(PlatformDBError):
    """The database cannot be reached."""

    exit_code = 4
    http_status = 503
    hint = "check that the server runs and that PLATFORM_DB_URI or PLATFORM_DB_HOST names it"


class NotWritable(Unreachable):
    """The database takes no writes now."""

    hint = "free space on its disk, or end what keeps it read-only or locked; what waits is written then"


class NeverMigrated(PlatformDBError):
    """The database was never migrated."""

    exit_code = 5
    http_status = 503
    hint = "run: platform-db init, or platform-db alembic upgrade"


class SchemaBehind(PlatformDBError):
    """The database is behind the code."""

    exit_code = 6
    http_status = 503
    hint = "run: platform-db alembic upgrade"


class SchemaAhead(PlatformDBError):
    """The database is ahead of the code."""

    exit_code = 7
    http_status = 503
    hint = "install the platform-db release that made this schema, or a newer one"


class SchemaDiffers(PlatformDBError):
    """The models and the database differ."""

    exit_code = 14
    hint = "write a migration, or correct the models; undo by hand any change made by hand"


class AlreadyRunning(PlatformDBError):
    """Another run of the same job is going on."""

    exit_code = 8
    http_status = 409
    hint = "wait for it to end; the lease of a run that was killed expires by itself"


class NotDirect(PlatformDBError):
    """A migration needs a direct connection, and a pooler stands between."""

    exit_code = 19
    hint = "set PLATFORM_DB_MIGRATION_URI to the address of the server itself"


class MigrationBlocked(PlatformDBError):
    """Other sessions keep a table from being changed."""

    exit_code = 20
    http_status = 503
    hint = (
        "platform-db alembic upgrade --dry-run names them; end them, or run it again: "
        "what ran stays, and the rest follows"
    )


class CitusMissing(PlatformDBError):
    """The database has no Citus, so its tables cannot be distributed."""

    exit_code = 21
    hint = "set Citus up first: the page on several machines begins with that"


class PartialFailure(PlatformDBError):
    """The job ended, but some items failed."""

    exit_code = 9
    hint = "the log names each item; the next run tries them again"


class NotRecorded(PartialFailure):
    """Some of what was recorded could not be stored.

    :param refused: each row that was put aside, with ``table``, ``key``, ``method`` and ``reason``.
    """

    hint = "the rest is stored, and the log names each row; calls that are not stored are made again"

    def __init__(self, refused: Sequence[Any]) -> None:
        counts = Counter(row.method for row in refused)
        methods = ", ".join(f"{count} of {method}" for method, count in counts.items())
        super().__init__(f"{len(refused)} rows could not be stored, {methods}: {refused[0].reason}")
        self.refused = list(refused)
        self.methods = list(counts)


class StorageMissing(PlatformDBError):
    """The storage of workspaces is missing, or part of it."""

    exit_code = 17
    http_status = 503
    hint = (
        "mount the storage; touch .platform-db-root in a root that is empty; where so many workspaces were "
        "removed on purpose, set PLATFORM_DB_MISSING_WORKSPACES_LIMIT=100 for one run"
    )


class ResultLost(StorageMissing):
    """The file of a result is gone, or is no longer what was stored."""

    hint = "set the result again; the run's jobs, or a retention rule, changed the file in its workspace"


class Unhealthy(PlatformDBError):
    """Rows of the database contradict each other, or its triggers and functions are not the models'."""

    exit_code = 18
    hint = (
        "what to do stands beside each object; rows that contradict each other are a bug or a restore in part"
    )


class NotFound(PlatformDBError):
    """There is no such row."""

    exit_code = 10
    http_status = 404


class WorkflowNotFound(NotFound):
    """There is no such workflow."""


class UserNotFound(NotFound):
    """There is no such user."""


class ResourceNotFound(NotFound):
    """There is no such resource."""

    hint = "create the default resources by: platform-db quota create-default-resources"


class ResultNotFound(NotFound):
    """There is no such result."""


class ReservationNotFound(NotFound):
    """There is no such reservation: it was committed or released, or it expired."""


class WrongUsage(PlatformDBError):
    """What was given cannot be used."""

    exit_code = 2
    http_status = 400


class InvalidIdentifier(WrongUsage):
    """This is not a valid identifier."""


class InvalidArgument(WrongUsage, ValueError):
    """A value cannot be used, or is out of its range."""


class InvalidFilter(InvalidArgument):
    """A list cannot be filtered or sorted so."""


class InvalidAddress(WrongUsage):
    """This is not a network address."""

    hint = "give one IP address; X-Forwarded-For may hold several"


class InvalidText(WrongUsage):
    """Text cannot be stored: it has a NUL character or half of a surrogate pair."""

    hint = "logs take such bytes as they are; other text cannot hold them"


class UnknownStatus(WrongUsage):
    """There is no such status."""


class AmbiguousIdentifier(InvalidIdentifier):
    """Several ids begin so."""

    hint = "write more of the id"


class Refused(PlatformDBError):
    """The stored state does not allow this."""

    exit_code = 11
    http_status = 409


class InvalidTransition(Refused):
    """This status cannot follow the stored one.

    :param entity: the table, such as ``workflow``.
    :param entity_id: the row's id, as text.
    :param stored_status: the status that the row has.
    :param status: the status that was asked for.

    The hint names what may follow.
    """

    def __init__(self, entity: str, entity_id: str, stored_status: str, status: str) -> None:
        # Found when it is needed: this file imports nothing from above.
        machine = importlib.import_module("platform_db.states").MACHINES[entity]
        follow = [
            one for one in machine.statuses if one in machine.transitions[machine.status(stored_status)]
        ]
        hint = f"after {stored_status} may come {', '.join(follow) or 'nothing'}"
        super().__init__(f"{entity} {entity_id} cannot go from {stored_status} to {status}", hint=hint)
        self.entity, self.entity_id = entity, entity_id
        self.stored_status, self.status = stored_status, status


class Conflict(Refused):
    """The row is not as the caller expected.

    :param condition: which expectation failed: ``status``, ``revision`` or ``holder``.
    :param expected: what the caller expected.
    :param stored_status: the status that the row has.
    :param stored_revision: the revision that the row has.
    """

    hint = "read the row again, then decide again"

    def __init__(
        self,
        entity: str,
        entity_id: str,
        condition: str,
        expected: Any,
        stored_status: str,
        stored_revision: int,
    ) -> None:
        super().__init__(
            f"{entity} {entity_id}: expected {condition} {expected}, "
            f"stored is {stored_status} at revision {stored_revision}"
        )
        self.entity, self.entity_id = entity, entity_id
        self.condition, self.expected = condition, expected
        self.stored_status, self.stored_revision = stored_status, stored_revision


class WatcherReplaced(Conflict):
    """Another process watches under this name now, or the name was forgotten.

    :param name: the watcher's name.
    """

    hint = "let one process watch under a name, or give each its own"

    def __init__(self, name: str) -> None:
        super(Conflict, self).__init__(f"another process watches as {name!r} now, or it was forgotten")
        self.name = name
        self.entity, self.entity_id, self.condition = "event_checkpoint", name, "version"


class IdempotencyConflict(Conflict):
    """This idempotency key was given before.

    :param key: the key.
    :param entity_id: the run that it stands for, as text.
    :param same: whether the same was asked for then.
    """

    hint = "give another key to create another run"

    def __init__(
        self, key: str, entity_id: str, same: bool, stored_status: str, stored_revision: int
    ) -> None:
        asked = "the same content" if same else "other content"
        super(Conflict, self).__init__(
            f"idempotency key {key!r} was given before, with {asked}, for workflow {entity_id}"
        )
        self.key, self.same = key, same
        self.entity, self.entity_id = "workflow", entity_id
        self.condition, self.expected = "idempotency key", key
        self.stored_status, self.stored_revision = stored_status, stored_revision


class QuotaExceeded(Refused):
    """There is not so much left of the user's quota.

    :param user_id: the user, as text.
    :param resource: the resource's name.
    :param amount: what was asked for, in the resource's unit, as the next four.
    :param used: what the user has used.
    :param reserved: what is reserved for the user.
    :param limit: the user's limit.
    """

    http_status = 403

    def __init__(
        self, user_id: str, resource: str, amount: int, used: int, reserved: int, limit: int
    ) -> None:
        super().__init__(
            f"user {user_id} cannot have {amount} more of {resource}: "
            f"{used} used and {reserved} reserved of {limit}"
        )
        self.user_id, self.resource = user_id, resource
        self.amount, self.used, self.reserved, self.limit = amount, used, reserved, limit


class DependencyCycle(Refused):
    """A job would depend on itself, through others or at once."""


class WorkflowExists(Refused):
    """A run has this id already."""


class RunNumberError(Refused):
    """This run number cannot be given."""


class UserExists(Refused):
    """Another user has this e-mail address or this identity."""

    hint = "look for it among: platform-db user list"


class UserHasWork(Refused):
    """The user has runs, sessions or services.

    :param user_id: the user.
    :param work: how many rows there are, by table.
    """

    hint = "delete it first, or say that it is to be deleted, too"

    def __init__(self, user_id: uuid.UUID, work: dict[str, int]) -> None:
        counts = ", ".join(f"{count} {table}" for table, count in work.items())
        super().__init__(f"user {user_id} has work: {counts}")
        self.user_id, self.work = user_id, work


class TokenError(Refused):
    """The token cannot be used that way."""


class AuthenticationError(TokenError):
    """The token is not accepted.

    Every kind has this one message: the caller tells them apart by class or ``code``, the outside cannot.

    :param token_id: the token that was shown, as far as it is known.
    :param user_id: whose it is.
    """

    http_status = 401

    def __init__(self, token_id: uuid.UUID | None = None, user_id: uuid.UUID | None = None) -> None:
        super().__init__("the token is not accepted")
        self.token_id, self.user_id = token_id, user_id


class MalformedToken(AuthenticationError):
    """This cannot be a token: it is empty, or mistyped."""


class UnknownToken(AuthenticationError):
    """No such token was ever issued."""


class RevokedToken(AuthenticationError):
    """The token was revoked."""


class ExpiredToken(AuthenticationError):
    """The token's time is over."""


class MissingScope(AuthenticationError):
    """The token has not all the scopes that are needed."""

    http_status = 403


class TokenInText(WrongUsage):
    """This text holds a token's value, which must not be stored in clear."""

    hint = "write the token's id; revoke the token, since its value may have been read"


class UnknownAction(PlatformDBError):
    """This is not a registered audit action."""


class AppendOnly(Refused):
    """This table is append-only."""


class AuditLogChanged(PlatformDBError):
    """The audit log, or a seal of it, was changed.

    :param seal: the number of the first seal that does not hold.
    :param change: what was done: ``edited``, ``deleted``, ``inserted``, ``reordered`` (a row), ``present`` (a
        row that retention removed, as a seal says), ``changed`` (rows, and what would tell which), or
        ``altered``, ``missing``, ``unsigned``, ``forged`` (the seal itself), ``unrecorded`` (the removal of
        rows, by retention as the seal says).
    :param row: the number of the first row concerned, where it can be told.
    :param row_id: that row's id, where it is still stored.
    """

    exit_code = 15
    hint = "compare with a backup, and with what platform-db audit export-seals gave earlier"

    def __init__(self, seal: int, change: str, row: int | None = None, row_id: str | None = None) -> None:
        what = f"seal {seal} does not hold: "
        named = f"row {row}{f' ({row_id})' if row_id else ''}"
        if change == "present":
            what += f"{named} is there, and a later seal says that retention removed it"
        elif row is not None:
            what += f"{named} was {change}"
        elif change in ("altered", "missing", "unsigned", "forged"):
            what += f"the seal itself is {change}"
        elif change == "unrecorded":
            what += "it removes the rows of others, and no audit row says so"
        else:
            what += "its rows were changed, and so were its digests, which would tell the row"
        super().__init__(what)
        self.seal, self.change = seal, change
        self.row, self.row_id = row, row_id


class InvalidExport(WrongUsage):
    """The given file holds no exported seals, or none of those that were read."""

    hint = "give what platform-db audit export-seals wrote, the oldest seal first; or begin earlier"


class RolesMissing(PlatformDBError):
    """A database role of platform-db is missing, or this login may not use it."""

    exit_code = 16
    hint = "run: platform-db roles create, then: platform-db roles grant --to LOGIN"


class SecretKeyError(PlatformDBError):
    """A secret key is missing or cannot be used."""

    exit_code = 12
    hint = "set PLATFORM_DB_SECRET_KEY (make one with: platform-db secret generate)"


class SecretKeyMissing(SecretKeyError):
    """A secret key that stored secrets need is not configured."""

    hint = "add the key with that id to PLATFORM_DB_SECRET_KEY, after the newest one and a comma"


class DecryptionError(SecretKeyError):
    """A stored secret cannot be decrypted: it was altered, moved or cut."""

    hint = "the stored value is not what platform-db wrote there; restore it from a backup"


class Interrupted(KeyboardInterrupt):
    """The work was interrupted: what is committed stays, and running it again does the rest.

    Not a :class:`PlatformDBError`: code that continues after an error must not continue after this.

    :param signal: the signal's number.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(inspect.getdoc(type(self)).partition("\n")[0])  # type: ignore[union-attr]
        self.signal = signal
        self.exit_code = 128 + signal

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.signal,)


class EmbeddedError(PlatformDBError):
    """The embedded database cannot be used."""

    exit_code = 13
