"""Asking CephFS, which keeps the size of each directory tree up to date by itself.

``ceph.dir.rbytes`` adds up file sizes (:attr:`Measurement.apparent`), replicas not included, and trails the
files by some seconds. It costs one request where a walk costs one for each file.
"""

from __future__ import annotations

import os
import sys

from platform_db.workspaces.measurement import Measurement

ATTRIBUTE = "ceph.dir.rbytes"


def read(path: bytes) -> Measurement | None:
    """Return what CephFS says, or nothing where the file system is another one or ``path`` no directory."""
    if sys.platform != "linux":
        return None
    try:
        # A link in place of the workspace is not followed, here as everywhere.
        value = os.getxattr(path, ATTRIBUTE, follow_symlinks=False)
        return Measurement(int(value), "ceph", apparent=True)
    except (OSError, ValueError):
        return None
