"""What takes the space in a workspace, name by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypedDict

from platform_db import errors
from platform_db.units import human_readable_bytes
from platform_db.workspaces.measure import measure
from platform_db.workspaces.measurement import WorkspacePath, workspace_error
from platform_db.workspaces.paths import resolve
from platform_db.workspaces.scan import Scan


class Size(TypedDict):
    """An amount of bytes, and how people read it."""

    raw: int
    human_readable: str


class Row(TypedDict):
    """A file or directory of a workspace, with all that is in it."""

    name: str
    size: Size


Search = Mapping[str, Iterable[str | int]]


def list_workspace(
    path: WorkspacePath, *, summarize: bool = False, search: Search | None = None
) -> list[Row]:
    """Return a row for each file and directory, as ``du --all`` does, in the order of their names.

    Names start at the workspace with ``/``; the workspace itself is the first row and has the name ``""``.
    Bytes of a name that are not UTF-8 are shown as ``\\xff``. A file with several names has one row.

    :param summarize: return the row of the workspace alone, found as :func:`measure` finds it.
    :param search: which rows to return: ``name`` has shell patterns for the name or its last part
        (``*.root``, ``data/*``; ``*`` stands for slashes too), ``size`` has bytes or texts such as
        ``1.5 MiB``. A row has to match one of each that is given; an empty list is as if not given.
    :raises MissingWorkspaceError: there is no such workspace.
    :raises WorkspaceError: its directory cannot be read.
    :raises errors.InvalidArgument: ``search`` has another key.
    """
    matcher = _Matcher(search or {})
    if summarize:
        rows = [("", measure(path).bytes)]
    else:
        sizes = _all_sizes(resolve(path))
        rows = sorted((name.decode(errors="backslashreplace"), size) for name, size in sizes)
    return [row for name, size in rows if matcher.matches(row := _row(name, size))]


def _all_sizes(path: bytes) -> list[tuple[bytes, int]]:
    sizes: list[tuple[bytes, int]] = []
    try:
        Scan(report=lambda name, size: sizes.append((name, size))).run(path)
    except OSError as error:
        raise workspace_error(path, error.errno, error.strerror or str(error)) from None
    return sizes


def _row(name: str, size: int) -> Row:
    return {"name": name, "size": {"raw": size, "human_readable": human_readable_bytes(size)}}


class _Matcher:
    def __init__(self, search: Search) -> None:
        if unknown := sorted(set(search) - {"name", "size"}):
            raise errors.InvalidArgument(f"cannot search for {', '.join(unknown)}; choose from name, size")
        self.patterns = [str(pattern).lstrip("/") for pattern in _values(search.get("name", ()))]
        self.sizes = {str(size).strip() for size in _values(search.get("size", ()))}

    def matches(self, row: Row) -> bool:
        name = row["name"].removeprefix("/")
        names = {name, name.rpartition("/")[2]}
        sizes = {str(row["size"]["raw"]), row["size"]["human_readable"]}
        if self.sizes and self.sizes.isdisjoint(sizes):
            return False
        named = any(fnmatchcase(each, pattern) for each in names for pattern in self.patterns)
        return named or not self.patterns


def _values(given: Iterable[str | int] | str | int) -> Iterable[str | int]:
    """Return a list, also where a caller gave one pattern instead of a list of them."""
    return [given] if isinstance(given, str | int) else given
