"""What the commands that list rows share: the options of a filter, and a page of what it finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from platform_db.cli.options import Time, options
from platform_db.cli.show import Row, show_rows

if TYPE_CHECKING:
    from platform_db.cursors import Page

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def list_options(sort: str, limit: int = 50) -> Callable[[F], F]:
    """Return the options of a list.

    :param sort: its order where none is given.
    :param limit: how many rows it has at most, where that is not given.
    """
    return options(
        click.option(
            "--status", "statuses", multiple=True, help="Only those with this status; may be repeated."
        ),
        click.option(
            "--name", metavar="PATTERN", help="Only those of this name, which may have *, ? and [a-z]."
        ),
        click.option("--since", type=Time(), help="Only what was made at this time or later."),
        click.option(
            "--search", default="", metavar="TEXT", help="Only those with this text in their name or id."
        ),
        click.option(
            "--filter",
            "filters",
            multiple=True,
            metavar="JSON",
            help='Any filter, such as \'{"priority": {"$gt": 5}}\'; may be repeated.',
        ),
        click.option(
            "--sort",
            default=sort,
            show_default=True,
            metavar="ORDER",
            help="created, updated, name, status, started, ended or runtime; - in front: the greatest first.",
        ),
        click.option("--cursor", help="Go on where the page before ended, with the same options."),
        click.option("--total", is_flag=True, help="Count them, too."),
        click.option("--limit", type=int, default=limit, show_default=True, help="How many rows at most."),
    )


def read_filter(
    statuses: tuple[str, ...], name: str | None, since: datetime | None, filters: tuple[str, ...]
) -> dict[str, Any]:
    """Return the filter that the options say.

    :raises click.UsageError: a text is not JSON.
    """
    parts = [parse_filter(text) for text in filters]
    if name is not None:
        parts.append({"name": {"$glob": name}})
    chosen: dict[str, Any] = {"$and": parts} if parts else {}
    if statuses:
        chosen["status"] = {"$in": list(statuses)}
    if since is not None:
        chosen["created"] = {"$gte": since}
    return chosen


def parse_filter(text: str) -> Any:
    """Return what the JSON of a filter says.

    :raises click.UsageError: the text is not JSON, or repeats a key.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--filter takes JSON: {error}") from None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def show_page(page: Page[T], rows: Iterable[Row], as_json: bool, table: Callable[[Row], Row]) -> None:
    """Print a page; on stderr how to go on, and how many there are on all pages."""
    show_rows(rows, as_json, table)
    if page.total is not None:
        click.echo(f"{page.total} in all", err=True)
    if page.cursor is not None:
        click.echo(f"more: --cursor {page.cursor}", err=True)
