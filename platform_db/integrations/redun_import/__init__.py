"""Moving a redun database here: from a file of SQLite or from PostgreSQL, without writing to it.

One pass reads one snapshot of the source, table by table in the order of their references.

1. Each row is checked, and brought into one form (:mod:`~platform_db.integrations.redun_import.reading`).
   One that cannot be stored is refused, and so are the rows that refer to it; the report names each.
2. A batch of rows is brought beside the owner's table
   (:mod:`~platform_db.integrations.redun_import.target`). Those that are stored already are dropped, by their
   digests; the others are stored by one statement.
3. The digests of what is stored are compared with those that were made of the source. A batch commits only
   what has arrived.

So the same work is the first pass, the rest of a pass that was killed, and a later pass over what has come
since; there is no state to keep. Nothing is removed: what an owner has from elsewhere stays, and several
databases may move to one owner.
"""

from platform_db.integrations.redun_import.moving import import_redun
from platform_db.transfer.report import Report

__all__ = ["Report", "import_redun"]
