"""Where settings come from: ``PLATFORM_DB_<NAME>``, or the file that ``PLATFORM_DB_<NAME>_FILE`` names.

Kubernetes and Docker mount secrets as such files. An empty variable counts as unset, except for the
termination policy, where empty means *none*.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from platform_db import errors

logger = logging.getLogger(__name__)

PREFIX = "PLATFORM_DB_"
EMPTY_IS_A_VALUE = frozenset({"workflow_termination_quota_update_policy"})
OTHERS = ("TARGET_URI", "TEST_CITUS_URI", "TEST_URI", "TEST_POOLER")
"""What begins with the prefix and is no setting: ``db copy`` and :mod:`platform_db.testing` read it."""

# What Kubernetes and Docker set in each container for a service called ``platform-db`` or ``platform-db-…``
# (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
_SERVICE_ADDRESS = re.compile("(tcp|udp|sctp)://")
_OF_A_SERVICE = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")


class Environment(PydanticBaseSettingsSource):
    """Reads the environment and the files that it names.

    Values are plain text: lists are comma-separated, never JSON.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        variable = PREFIX + field_name.upper()
        empty_is_a_value = field_name in EMPTY_IS_A_VALUE
        value = os.environ.get(variable)
        if field_name == "port" and value and _SERVICE_ADDRESS.match(value):
            logger.warning(
                "%s is ignored: it is the address of a Kubernetes service called platform-db, not a port; "
                "enableServiceLinks: false in the pod keeps it out",
                variable,
            )
            value = None
        if value is None or (value == "" and not empty_is_a_value):
            path = os.environ.get(f"{variable}_FILE")
            value = _read(path, variable) if path else None
        if value is not None:
            value = value.strip("\ufeff\r\n") if field_name == "password" else _clean(value)
        return value if value or empty_is_a_value else None, field_name, False

    def __call__(self) -> dict[str, Any]:
        _warn_of_mistyped(self.settings_cls.model_fields)
        fields = self.settings_cls.model_fields.items()
        found = (self.get_field_value(field, name) for name, field in fields)
        return {name: value for value, name, _ in found if value is not None}


def _clean(value: str) -> str:
    """Drop what editors and shells leave around a value; in a password spaces and quotes count."""
    value = value.strip("\ufeff \t\r\n")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1].strip()
    return value


def _read(path: str, variable: str) -> str:
    """Return what the file holds. Its path is not shown: it may be a secret put into the wrong variable."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise errors.InvalidSetting(
            f"the file that {variable}_FILE names cannot be read: {reason}",
            hint="put the path of a text file there that this process may read",
        ) from None


def _warn_of_mistyped(fields: Iterable[str]) -> None:
    known = [name.upper() for name in fields]
    known += [*(f"{name}_FILE" for name in known), *OTHERS]
    for variable, value in os.environ.items():
        name = variable.removeprefix(PREFIX)
        if name in (variable, *known) or _OF_A_SERVICE.fullmatch(name) or _SERVICE_ADDRESS.match(value):
            continue
        for meant in difflib.get_close_matches(name.upper(), known, n=1):
            message = "%s is ignored: there is no such setting; did you mean %s?"
            logger.warning(message, variable, PREFIX + meant)
