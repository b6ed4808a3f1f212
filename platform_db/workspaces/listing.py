"""What takes the space in a workspace, name by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
    matches = _matcher(search or {})
    sizes: list[tuple[str, int]] = []

    def note(name: bytes, size: int) -> None:
        sizes.append((name.decode(errors="backslashreplace"), size))

    if summarize:
        note(b"", measure(path).bytes)
    else:
        place = resolve(path)
        try:
            Scan(report=note).run(place)
        except OSError as error:
            raise workspace_error(place, error) from None
    rows: Iterator[Row] = (
        {"name": name, "size": {"raw": size, "human_readable": human_readable_bytes(size)}}
        for name, size in sorted(sizes)
    )
    return [row for row in rows if matches(row)]


def _matcher(search: Search) -> Callable[[Row], bool]:
    if unknown := sorted(set(search) - {"name", "size"}):
        raise errors.InvalidArgument(f"cannot search for {', '.join(unknown)}; choose from name, size")
    patterns = [str(pattern).lstrip("/") for pattern in _values(search.get("name", ()))]
    wanted_sizes = {str(size).strip() for size in _values(search.get("size", ()))}

    def matches(row: Row) -> bool:
        name = row["name"].removeprefix("/")
        names = {name, name.rpartition("/")[2]}
        sizes = {str(row["size"]["raw"]), row["size"]["human_readable"]}
        if wanted_sizes and wanted_sizes.isdisjoint(sizes):
            return False
        return not patterns or any(fnmatchcase(each, pattern) for each in names for pattern in patterns)

    return matches


def _values(given: Iterable[str | int] | str | int) -> Iterable[str | int]:
    """Return a list, also where a caller gave one pattern instead of a list of them."""
    return [given] if isinstance(given, str | int) else given
