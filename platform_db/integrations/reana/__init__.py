"""Moving the data of a REANA platform here: from a live database of reana-db, without writing to it.

One pass reads one snapshot of the source, in a read-only transaction, so everything in it fits together.

1. Check the source's revision, the target, the keys, and each row: what cannot be mapped, and what only a
   person can decide (:mod:`~platform_db.integrations.reana.decisions`). Nothing has been written by then.
2. Move page by page of keys (:mod:`~platform_db.integrations.reana.moving`). Of each key the source computes
   a digest over the rows that the mapping makes of it, and the target one over the rows that it has. Where
   they differ, the target's rows go and the source's come, by COPY. Then the target's digests are read again:
   a page commits only what has arrived. So the same work is the first pass, the rest of a pass that was
   killed, and a later pass over what has changed, come or gone since; there is no state to keep.
3. Compute what is computed here, as processing times and totals.

The mapping is data: a :class:`~platform_db.integrations.reana.table.Table` for each table.
"""

from platform_db.integrations.reana.moving import Options, import_reana
from platform_db.transfer.report import Report

__all__ = ["Options", "Report", "import_reana"]
