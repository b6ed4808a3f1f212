"""A private PostgreSQL for demonstrations, tests and single-user machines.

:func:`ensure_running` gives the URL of a database in a directory, making and starting what is missing. The
server's programs come from the extra ``embedded``, or from the machine. It listens on a socket that the
directory's owner alone can use, as any role and without a password. Any number of the owner's processes
share it; the last one that ends stops it.
"""

from platform_db.embedded.binaries import binary
from platform_db.embedded.directory import default_directory, parse_uri
from platform_db.embedded.keys import secret_key
from platform_db.embedded.sharing import ensure_running, exists, is_running, release, reset, stop

__all__ = [
    "binary",
    "default_directory",
    "ensure_running",
    "exists",
    "is_running",
    "parse_uri",
    "release",
    "reset",
    "secret_key",
    "stop",
]
