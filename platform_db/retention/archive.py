"""Archives: rows as lines of JSON, compressed, safe on disk before anything is deleted."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from platform_db.identifiers import new_id


def write_archive(directory: Path, table: str, rows: Iterable[tuple[str, str]]) -> Path:
    """Write rows to a new file ``TABLE-TIME-ID.jsonl.gz`` and return it, once it is on the disk.

    Each line is ``{"table": …, "row": {…}}``. A file that was not finished has another name.

    :param rows: for each row its table and its JSON text.
    """
    directory.mkdir(parents=True, exist_ok=True)
    time = datetime.now(timezone.utc)
    path = directory / f"{table}-{time:%Y%m%dT%H%M%SZ}-{new_id()}.jsonl.gz"
    unfinished = path.with_name(f".{path.name}.unfinished")
    # Rows may hold what their owners alone should read.
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with gzip.GzipFile(filename="", mode="wb", fileobj=file) as compressed:
            for name, row in rows:
                compressed.write(f'{{"table": "{name}", "row": {row}}}\n'.encode())
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # The name must be there after a power cut, too.
    finally:
        os.close(folder)
    return path
