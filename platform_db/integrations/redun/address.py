"""The address of a redun backend: which database, and whose rows in it.

``platformdb://configured?owner=ada@example.org`` is the database that ``PLATFORM_DB_URI`` names, and
``platformdb://user@host/name?owner=…`` any other one. A password is never part of it: it comes from the
environment, as with redun's other databases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from sqlalchemy.engine import URL

from platform_db import database, errors

SCHEME = "platformdb"
_HOST = "configured"
CONFIGURED = f"{SCHEME}://{_HOST}"


class Address(NamedTuple):
    """:param url: the database; None is the configured one.
    :param as_tenant: whether to work as the role of tenants, which sees the owner's rows alone.
    :param text: the address, which names the owner and holds no password.
    """

    url: URL | None
    owner: str
    as_tenant: bool
    text: str


def is_ours(uri: str | None) -> bool:
    """Tell whether this is the address of a database of platform-db's."""
    return (uri or "").startswith(f"{SCHEME}://")


def parse(uri: str, section: Mapping[str, str]) -> Address:
    """Return what an address means, with ``owner`` and ``as_tenant`` of the section where it has none itself.

    :raises errors.InvalidSetting: neither names an owner, ``as_tenant`` is neither ``true`` nor ``false``, or
        there is no such database's URL.
    """
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    owner = options.pop("owner", "") or section.get("owner", "")
    if not owner:
        raise errors.InvalidSetting(
            "it is not configured whose call graph this is",
            hint=f"name a user in db_uri of redun.ini: {CONFIGURED}?owner=USER, an id or e-mail address",
        )
    as_tenant = (options.pop("as_tenant", "") or section.get("as_tenant", "") or "false").lower()
    if as_tenant not in ("true", "false"):
        raise errors.InvalidSetting("as_tenant in [backend] of redun.ini is true or false")
    url = None
    if parts.hostname != _HOST:
        credentials, at, host = parts.netloc.rpartition("@")
        url = database.normalise_url(
            urlunsplit(("postgresql", f"{credentials}{at}{host}", parts.path, urlencode(options), ""))
        )
        netloc = f"{credentials.partition(':')[0]}{at}{host}"
    else:
        netloc = _HOST
    if as_tenant == "true":
        options["as_tenant"] = "true"
    query = urlencode({**options, "owner": owner}, quote_via=quote, safe="@")
    return Address(url, owner, as_tenant == "true", urlunsplit((SCHEME, netloc, parts.path, query, "")))
