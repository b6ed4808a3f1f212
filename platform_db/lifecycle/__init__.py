"""What becomes of a row: its transitions, and their history."""

from platform_db.lifecycle.history import Entry, add_note, history
from platform_db.lifecycle.transitions import (
    TransitionResult,
    override_guard,
    set_actor,
    transition,
    transition_many,
)

__all__ = [
    "Entry",
    "TransitionResult",
    "add_note",
    "history",
    "override_guard",
    "set_actor",
    "transition",
    "transition_many",
]
