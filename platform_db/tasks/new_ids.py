"""Ids that no record can have yet, told without asking the database."""

from __future__ import annotations

from collections.abc import Callable

_MOST_CLIENTS = 10_000


class NewIds:
    """The highest number of each client, whose ids are ``CLIENT_NUMBER`` with numbers that it counts up.

    A scheduler asks for each new task whether there is a record of it; a round trip each time would hold up
    all that comes after.

    :param read_highest: returns the highest number of a client that is stored, 0 where there is none.
    """

    def __init__(self, read_highest: Callable[[str], int]) -> None:
        self._read_highest = read_highest
        self._highest: dict[str, int] = {}

    def has(self, msg_id: str) -> bool:
        """Tell whether no record has this id."""
        client, number = _split(msg_id)
        if not client:
            return False
        if client not in self._highest:
            if len(self._highest) >= _MOST_CLIENTS:
                self._highest.clear()
            self._highest[client] = self._read_highest(client)
        return number > self._highest[client]

    def remove(self, msg_id: str) -> None:
        """Note that a record has this id now."""
        client, number = _split(msg_id)
        if client in self._highest:
            self._highest[client] = max(number, self._highest[client])


def _split(msg_id: str) -> tuple[str, int]:
    """Return the client, with the underscore, and the number; no client where the id is another's."""
    client, underscore, number = msg_id.rpartition("_")
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        return "", 0
    return f"{client}{underscore}", int(number)
